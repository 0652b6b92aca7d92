"""What is judged: pairs of answers to the same prompt, or single rows; which side is which only the server knows."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayloom.artifacts.files import read_json_lines
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.ui.rows.row_page import shown_value

PAIR_CHOICES = ("left", "right", "tie")
ROW_CHOICES = ("right", "wrong", "unsure")
ANSWER_FIELDS = ("answer", "completion", "prediction", "text")
KEPT = "kept"
"""Stands for a rule where a row was not dropped."""
MOST_CHARACTERS = 6_000
"""Of a longer row, its beginning is shown."""
_JUDGED = {1.0: "first", 0.0: "second", 0.5: "tie"}


@dataclass(frozen=True)
class RatedItem:
    """One screen."""

    id: str
    """Of its content, so that it is the same in every run. No page says it: it tells which answer is the first."""
    prompt: str
    answers: tuple[str, ...]
    """Two for a pair, in the order of `models`; one for a row."""
    reason: str = ""
    """For a row that a rule dropped: which; KEPT if none did."""
    question: str = ""
    """For a row: what is asked about it."""
    models: tuple[str, ...] = ()
    """For a pair: whose answers they are. No page says it."""
    judged: str = ""
    """For a pair that a model judged: first, second or tie. No page says it."""
    row: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """For a row: all of its fields."""

    def token(self, key: bytes) -> str:
        """Stands for the item in pages and their requests."""
        return _keyed(key, self.id).hex()[:16]

    def is_swapped(self, rater: str, key: bytes) -> bool:
        """Whether this rater sees the second answer on the left."""
        return _keyed(key, f"{rater} {self.id}")[0] % 2 == 1

    def shown(self, rater: str, key: bytes) -> tuple[str, ...]:
        """The answers from left to right."""
        return self.answers[::-1] if self.is_swapped(rater, key) else self.answers


def _keyed(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def pairs(first: Artifact, second: Artifact, file: str, prompt: str, answer: str | None) -> list[RatedItem]:
    """Answers of both to the same prompts; equal answers are left out. Raises InputError if there are none."""
    ours, theirs = (_answers(artifact, file, prompt, answer) for artifact in (first, second))
    both = [(text, ours[text], theirs[text]) for text in ours if text in theirs]
    if not both:
        what = f"{first.id} and {second.id} have no prompt in common"
        raise InputError(what, where=file, fix="Name the field of the prompt with --prompt: both need the same rows.")
    items = [RatedItem(_id(*row), row[0], row[1:], models=(first.id, second.id)) for row in both]
    return _different(items)


def compared(artifact: Artifact) -> list[RatedItem]:
    """All pairs of answers of a comparison, with what its judge said. Raises InputError if there are none."""
    wins = artifact.path / "wins.jsonl"
    judged = {
        (one["prompt"], one["first"], one["second"]): _JUDGED[float(one["value"])]
        for one in (read_json_lines(wins) if wins.exists() else ())
    }
    against = (artifact.manifest.spec.get("judging") or {}).get("against")

    def found() -> Iterator[RatedItem]:
        for line in read_json_lines(artifact.path / "answers.jsonl"):
            names = sorted(line["answers"], key=lambda name: name == against)
            for first, second in itertools.combinations(names, 2):
                if against in (None, second):
                    prompt, texts = line["prompt"], (line["answers"][first], line["answers"][second])
                    said = judged.get((line["number"], first, second), "")
                    id_ = _id(prompt, *texts, first, second)  # two models may have given the same answer
                    yield RatedItem(id_, prompt, texts, models=(first, second), judged=said)

    return _different(found())


def _different(items: Iterable[RatedItem]) -> list[RatedItem]:
    different = [item for item in items if item.answers[0].strip() != item.answers[1].strip()]
    if not different:
        raise InputError("All gave the same answers everywhere", fix="There is nothing to judge.")
    return different


def rows(artifact: Artifact, file: str, answer: str | None) -> list[RatedItem]:
    """The rows of one file, each to be judged right or wrong: predictions, generated rows, labels in doubt."""
    found = [row_item(row, number, answer) for number, row in enumerate(_read(artifact, file)) if isinstance(row, dict)]
    if not found:
        raise InputError(f"{artifact.id} has no rows there", where=file, fix="Name another file with --file.")
    return found


def row_item(row: Mapping[str, Any], number: int, answer: str | None = None) -> RatedItem:
    """A row as it is shown: what is judged, everything else about it, and the question."""
    if answer is None and isinstance(row.get("messages"), list) and len(row["messages"]) > 1:
        *before, last = row["messages"]
        text, context = _turn(last), "\n\n".join(map(_turn, before))
    else:
        name = answer or next((name for name in ANSWER_FIELDS if name in row), "")
        text = shown_value(row[name]) if name in row else shown_value(row)
        others = {key: value for key, value in row.items() if key not in (name, "reason", "made_by")}
        context = "\n".join(f"{key}: {shown_value(value)}" for key, value in list(others.items())[:12])
    reason, id_ = str(row.get("reason", "")), _id(str(number), text)
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]} … and {len(text) - MOST_CHARACTERS:,} characters more"
    return RatedItem(id_, context, (text,), reason, _question(row, reason), row=row)


def _question(row: Mapping[str, Any], reason: str) -> str:
    if reason == KEPT:
        return "Cleaning kept this. Was that right?"
    if reason:
        return f"Dropped because of {reason}. Was that right?"
    return f"Is the label “{shown_value(row['label'])}” right?" if row.get("label") not in (None, "") else ""


def _turn(turn: Any) -> str:
    if not isinstance(turn, Mapping):
        return shown_value(turn)
    return f"{turn.get('role', '')}: {shown_value(turn.get('content', ''))}"


def sampled(items: Sequence[RatedItem], most: int, seed: int) -> list[RatedItem]:
    """At most so many, the same ones for a seed; of rows with reasons, as many of each reason as there are."""
    made = random.Random(seed)
    shuffled = made.sample(list(items), len(items))
    if not any(item.reason for item in items):
        return shuffled[:most]
    by_reason: dict[str, list[RatedItem]] = {}
    for item in shuffled:
        by_reason.setdefault(item.reason, []).append(item)
    turns = [item for turn in range(len(shuffled)) for group in by_reason.values() for item in group[turn : turn + 1]]
    return made.sample(turns[:most], min(most, len(turns)))


def _answers(artifact: Artifact, file: str, prompt: str, answer: str | None) -> dict[str, str]:
    found = {}
    for row in _read(artifact, file):
        if not isinstance(row, dict) or row.get(prompt) is None:
            continue
        name = answer or next((name for name in ANSWER_FIELDS if name in row and name != prompt), None)
        if name in row:
            found[shown_value(row[prompt])] = shown_value(row[name])
    return found


def _read(artifact: Artifact, file: str) -> Any:
    known = [entry.path for entry in artifact.manifest.files if Path(entry.path).suffix == ".jsonl"]
    if file not in known:
        what = f"{artifact.id} has no file of JSON lines of this name"
        raise InputError(what, where=file, fix=f"It has: {', '.join(known[:8]) or 'none'}; name one with --file.")
    return read_json_lines(artifact.path / file)


def _id(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
