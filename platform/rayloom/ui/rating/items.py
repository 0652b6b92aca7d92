"""What is judged: pairs of answers to the same prompt, or single rows; which side is which only the server knows."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.artifacts.files import read_json_lines
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.ui.rows.row_page import shown_value

PAIR_CHOICES = ("left", "right", "tie")
ROW_CHOICES = ("right", "wrong", "unsure")
ANSWER_FIELDS = ("answer", "completion", "prediction", "text")


@dataclass(frozen=True)
class RatedItem:
    """One screen."""

    id: str
    """Of its content, so that it is the same in every run, and says nothing about a model."""
    prompt: str
    answers: tuple[str, ...]
    """Two for a pair, in the order of the artifacts; one for a row."""
    reason: str = ""
    """For a row that a rule dropped: which."""

    def is_swapped(self, rater: str, seed: int) -> bool:
        """Whether this rater sees the second answer on the left."""
        return hashlib.sha256(f"{seed} {rater} {self.id}".encode()).digest()[0] % 2 == 1

    def shown(self, rater: str, seed: int) -> tuple[str, ...]:
        """The answers from left to right."""
        return self.answers[::-1] if self.is_swapped(rater, seed) else self.answers


def pairs(first: Artifact, second: Artifact, file: str, prompt: str, answer: str | None) -> list[RatedItem]:
    """Answers of both to the same prompts; equal answers are left out. Raises InputError if there are none."""
    ours, theirs = (_answers(artifact, file, prompt, answer) for artifact in (first, second))
    both = [(text, ours[text], theirs[text]) for text in ours if text in theirs]
    if not both:
        what = f"{first.id} and {second.id} have no prompt in common"
        raise InputError(what, where=file, fix="Name the field of the prompt with --prompt: both need the same rows.")
    items = [RatedItem(_id(text, one, two), text, (one, two)) for text, one, two in both if one.strip() != two.strip()]
    if not items:
        raise InputError("Both gave the same answers everywhere", where=file, fix="There is nothing to judge.")
    return items


def rows(artifact: Artifact, file: str, answer: str | None) -> list[RatedItem]:
    """The rows of one file, each to be judged right or wrong."""
    found = []
    for number, row in enumerate(_read(artifact, file)):
        if isinstance(row, dict):
            field = answer or next((name for name in ANSWER_FIELDS if name in row), None)
            text = shown_value(row[field]) if field in row else shown_value(row)
            others = {name: value for name, value in row.items() if name not in (field, "reason")}
            context = "\n".join(f"{name}: {shown_value(value)}" for name, value in list(others.items())[:12])
            found.append(RatedItem(_id(str(number), text), context, (text,), str(row.get("reason", ""))))
    if not found:
        raise InputError(f"{artifact.id} has no rows there", where=file, fix="Name another file with --file.")
    return found


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
        field = answer or next((name for name in ANSWER_FIELDS if name in row and name != prompt), None)
        if field in row:
            found[shown_value(row[prompt])] = shown_value(row[field])
    return found


def _read(artifact: Artifact, file: str) -> Any:
    known = [entry.path for entry in artifact.manifest.files if Path(entry.path).suffix == ".jsonl"]
    if file not in known:
        what = f"{artifact.id} has no file of JSON lines of this name"
        raise InputError(what, where=file, fix=f"It has: {', '.join(known[:8]) or 'none'}; name one with --file.")
    return read_json_lines(artifact.path / file)


def _id(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
