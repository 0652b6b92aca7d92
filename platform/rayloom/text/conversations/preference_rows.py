"""Judged answers as rows: both answers of a pair, each after the same prompt, as two documents of one row.

For KTO, whose rows have one answer, the second document is the answer to another row's prompt after this one, by which
the method estimates how far the model has moved in general.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.errors import InputError
from rayloom.specs.training.preferences import PreferenceData, PreferenceSource
from rayloom.text.conversations.formats import conversation, read_rows
from rayloom.text.conversations.messages import ConversationError, Message
from rayloom.text.conversations.render import Conversation, Renderer, Sample
from rayloom.text.packed.shards import Row, ShardWriter, TokenShards
from rayloom.text.row_problems import RowProblems
from rayloom.text.tokenizer_digest import tokenizer_digest

GOOD_NAME, REFERENCE_NAME = "good.npy", "reference.npy"


@dataclass(frozen=True)
class Judged:
    """A conversation up to the question, and its answers."""

    origin: str
    prompt: tuple[Mapping[str, Any], ...]
    better: Mapping[str, Any]
    worse: Mapping[str, Any] | None
    """None where one answer was judged alone."""
    is_good: bool = True


@dataclass
class PreferenceCounts:
    """Where every row went."""

    rows_read: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    lengths_tokens: dict[str, int] = field(default_factory=dict)
    train: dict[str, int] = field(default_factory=dict)
    heldout: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class PreferenceRow:
    """A row of two documents, how it was judged, and what the model first thought of both."""

    row: Row
    is_good: bool
    reference: NDArray[np.float32]
    """(2,) log p of both answers before training; NaN where it is not known."""


class PreferenceRows:
    """Such rows in a folder, by number."""

    def __init__(self, directory: Path, sequence_length_tokens: int) -> None:
        self.directory = directory
        self.shards = TokenShards(directory, sequence_length_tokens)
        self.is_good = np.load(directory / GOOD_NAME, allow_pickle=False)
        file = directory / REFERENCE_NAME
        unknown = np.full((len(self.shards), 2), np.nan, np.float32)
        self.reference = np.load(file, allow_pickle=False) if file.exists() else unknown

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def num_tokens(self) -> int:
        return self.shards.num_tokens

    @property
    def tokenizer_digest(self) -> str:
        return self.shards.tokenizer_digest

    def row(self, index: int) -> PreferenceRow:
        return PreferenceRow(self.shards.row(index), bool(self.is_good[index]), self.reference[index])


def prepare_preferences(
    data: PreferenceData,
    files: Mapping[str, Sequence[Path]],
    renderer: Renderer,
    sequence_length_tokens: int,
    seed: int,
    out: Path,
    *,
    is_paired: bool,
    advance: Callable[[int], None] = lambda _: None,
) -> PreferenceCounts:
    """Writes rows to `out/train` and `out/heldout`. Raises InputError with every unusable row by number."""
    counts = PreferenceCounts()
    problems = RowProblems(data.leave_out)
    judged = [row for row in _read(data, files, counts, seed, problems, advance) if _fits(row, is_paired, problems)]
    rendered = _rendered(judged, renderer, problems)
    problems.raise_any()
    order = np.random.default_rng([seed, len(rendered)]).permutation(len(rendered))
    rows = [rendered[number] for number in order]
    if not is_paired:
        rows = _with_other_answers(rows, renderer)
    rows = _within_length(rows, data, sequence_length_tokens, counts, problems)
    if len(rows) < 2 * data.heldout_rows:
        what = f"heldout_rows is {data.heldout_rows}, but there are {len(rows)} rows"
        raise InputError(what, fix=f"Hold out at most {len(rows) // 2}, or add rows.")
    heldout = rows[: data.heldout_rows]
    prompts = {_key(row.judged.prompt) for row in heldout}
    train = [row for row in rows[data.heldout_rows :] if _key(row.judged.prompt) not in prompts]
    if len(rows) - len(heldout) - len(train):
        problems.left_out["same_prompt_as_a_heldout_row"] = len(rows) - len(heldout) - len(train)
    counts.left_out = dict(problems.left_out)
    digest = tokenizer_digest(renderer.tokenizer)
    for name, part in (("train", train), ("heldout", heldout)):
        writer = ShardWriter(out / name, len(renderer.tokenizer), digest, sequence_length_tokens=sequence_length_tokens)
        _write(part, writer)
        np.save(out / name / GOOD_NAME, np.asarray([row.judged.is_good for row in part]), allow_pickle=False)
        setattr(counts, name, _counted(part))
    return counts


@dataclass(frozen=True)
class _Pair:
    judged: Judged
    samples: tuple[Sample, ...]

    @property
    def length_tokens(self) -> int:
        return sum(len(sample.tokens) for sample in self.samples)


def _read(
    data: PreferenceData,
    files: Mapping[str, Sequence[Path]],
    counts: PreferenceCounts,
    seed: int,
    problems: RowProblems,
    advance: Callable[[int], None],
) -> list[Judged]:
    kept = []
    for number, source in enumerate(data.sources):
        found = []
        for origin, row in read_rows(files[f"data.sources.{number}.dataset"]):
            advance(1)
            try:
                found.append(judged_row(row, source, origin))
            except ConversationError as error:
                problems.add(origin, error)
        counts.rows_read[f"{number} {source.dataset}"] = len(found)
        if source.limit_rows is not None and len(found) > source.limit_rows:
            chosen = np.random.default_rng([seed, number]).permutation(len(found))[: source.limit_rows]
            found = [found[index] for index in sorted(chosen)]
        kept += found
    return kept


def judged_row(row: Any, source: PreferenceSource, origin: str) -> Judged:
    """One row. Raises ConversationError saying what it lacks."""
    if not isinstance(row, Mapping):
        raise ConversationError("not_a_conversation", f"is not a JSON object but {type(row).__name__}")
    if source.format == "messages_label":
        _need(row, "messages", "label")
        messages = conversation(row, "messages", {}, origin).messages
        if not isinstance(row["label"], bool):
            raise ConversationError("missing_column", f"`label` is not true or false but {row['label']!r}")
        if not messages or messages[-1].get("role") != "assistant":
            raise ConversationError("no_answer", "`messages` do not end with an answer")
        return Judged(origin, messages[:-1], messages[-1], None, row["label"])
    if source.format == "sharegpt":
        _need(row, "conversations", "chosen", "rejected")
        prompt = conversation(row, "sharegpt", {}, origin).messages
        answers = [conversation({"conversations": [row[key]]}, "sharegpt", {}, origin).messages[0] for key in _ANSWERS]
    else:
        _need(row, "prompt", "chosen", "rejected")
        pairs = [{"prompt": row["prompt"], "completion": row[key]} for key in _ANSWERS]
        both = [conversation(pair, "prompt_completion", {}, origin).messages for pair in pairs]
        if not all(both):
            raise ConversationError("no_answer", "has neither question nor answer")
        prompt, answers = both[0][:-1], [messages[-1] for messages in both]
    return Judged(origin, prompt, answers[0], answers[1])


_ANSWERS = ("chosen", "rejected")


def _need(row: Mapping[str, Any], *columns: str) -> None:
    missing = [column for column in columns if row.get(column) is None]
    if missing:
        said = f"has no column {' and '.join(missing)}; its columns are {', '.join(row)}"
        raise ConversationError("missing_column", said)


def _fits(row: Judged, is_paired: bool, problems: RowProblems) -> bool:
    try:
        if is_paired and row.worse is None:
            raise ConversationError("missing_column", "has one answer; only kto learns from that")
        if not is_paired and row.worse is not None:
            raise ConversationError("missing_column", "has two answers; kto wants messages_label")
        if row.worse is not None and row.better.get("content") == row.worse.get("content"):
            raise ConversationError("same_answers", "both answers are the same")
    except ConversationError as error:
        problems.add(row.origin, error)
        return False
    return True


def _rendered(rows: Sequence[Judged], renderer: Renderer, problems: RowProblems) -> list[_Pair]:
    found = []
    for row in rows:
        try:
            answers = [row.better, *([row.worse] if row.worse is not None else [])]
            found.append(_Pair(row, tuple(answer_sample(renderer, row.prompt, answer) for answer in answers)))
        except ConversationError as error:
            problems.add(row.origin, error)
    return found


def answer_sample(renderer: Renderer, prompt: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> Sample:
    """Prompt and answer, of which only this answer is a label."""
    messages: list[Message] = [
        {**message, "train": False} if message.get("role") == "assistant" else dict(message) for message in prompt
    ]
    messages.append({key: value for key, value in answer.items() if key != "train"})
    return renderer.samples(Conversation(tuple(messages)))[-1]


def _with_other_answers(rows: Sequence[_Pair], renderer: Renderer) -> list[_Pair]:
    """Each row with the answer of the next one behind its own."""
    others = [*rows[1:], *rows[:1]]
    return [
        _Pair(row.judged, (row.samples[0], answer_sample(renderer, row.judged.prompt, other.judged.better)))
        for row, other in zip(rows, others, strict=True)
    ]


def _within_length(
    rows: list[_Pair], data: PreferenceData, limit: int, counts: PreferenceCounts, problems: RowProblems
) -> list[_Pair]:
    if rows:
        found = np.percentile([row.length_tokens for row in rows], [50, 90, 99, 100], method="higher")
        names = ("median", "p90", "p99", "longest")
        counts.lengths_tokens = dict(zip(names, (int(length) for length in found), strict=True))
    too_long = [row for row in rows if row.length_tokens > limit]
    if not too_long:
        return rows
    share = len(too_long) / len(rows)
    named = ", ".join(f"{row.judged.origin} ({row.length_tokens})" for row in too_long[:5])
    what = f"{len(too_long)} of {len(rows)} pairs are longer than sequence_length_tokens ({limit}): {named}"
    longest = max(row.length_tokens for row in too_long)
    if data.length_policy == "error":
        raise InputError(what, fix=f"Raise sequence_length_tokens to {longest}, or set length_policy: drop.")
    if share > data.max_length_policy_share:
        fix = f"Raise sequence_length_tokens to {longest}, or data.max_length_policy_share."
        raise InputError(f"{what}; that is {share:.1%}, over max_length_policy_share", fix=fix)
    problems.left_out["longer_than_sequence_length"] = len(too_long)
    return [row for row in rows if row.length_tokens <= limit]


def _write(rows: Sequence[_Pair], writer: ShardWriter) -> None:
    for row in rows:
        writer.start_row()
        for sample in row.samples:
            writer.add(sample.tokens, np.asarray(sample.trained, np.bool_))
    writer.close()


def _counted(rows: Sequence[_Pair]) -> dict[str, int]:
    samples = [sample for row in rows for sample in row.samples]
    return {
        "rows": len(rows),
        "tokens": sum(len(sample.tokens) for sample in samples),
        "trained_tokens": sum(sample.num_trained for sample in samples),
        "good": sum(row.judged.is_good for row in rows),
    }


def _key(prompt: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(prompt), sort_keys=True)
