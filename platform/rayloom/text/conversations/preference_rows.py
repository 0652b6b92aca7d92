"""Judged answers as rows: both answers of a pair, each after the same prompt, as two documents of one row.

For KTO, whose rows have one answer, the second document is the answer to another row's prompt after this one, by which
the method estimates how far the model has moved in general.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.reading.files import RowFile, table_rows
from rayloom.specs.training.preferences import PreferenceData
from rayloom.text.conversations.heldout_prompts import in_drawn_order, split_by_prompt
from rayloom.text.conversations.judged_rows import JudgedRow, judged_row
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.conversations.preference_counts import PreferenceCounts, within_length
from rayloom.text.conversations.render import Conversation, Renderer
from rayloom.text.conversations.samples import Sample
from rayloom.text.packed.shards import Row, ShardWriter, TokenShards
from rayloom.text.row_problems import RowProblems
from rayloom.text.row_workers import RowProcesses, RowWorkers
from rayloom.text.tokenizer_files import tokenizer_digest

Turns = tuple[Mapping[str, Any], ...]
ROWS_AT_ONCE = 256
GOOD_NAME, REFERENCE_NAME, MARGIN_NAME = "good.npy", "reference.npy", "margin.npy"


@dataclass(frozen=True)
class PreferenceRow:
    """A row of two documents, how it was judged, and what the model first thought of both."""

    row: Row
    is_good: bool
    reference: NDArray[np.float32]
    """(2,) log p of both answers before training; NaN where it is not known."""
    margin: float
    """By how much the first answer should lead."""


class PreferenceRows:
    """Such rows in a folder, by number."""

    def __init__(self, directory: Path, sequence_length_tokens: int) -> None:
        self.directory = directory
        self.shards = TokenShards(directory, sequence_length_tokens)
        self.is_good = np.load(directory / GOOD_NAME, allow_pickle=False)
        margins = directory / MARGIN_NAME
        self.margin = np.load(margins, allow_pickle=False) if margins.exists() else np.zeros(len(self.shards))
        self.reference_file = directory / REFERENCE_NAME
        """What the model thought of the answers before training; made by the training."""
        unknown = np.full((len(self.shards), 2), np.nan, np.float32)
        is_known = self.reference_file.exists()
        self.reference = np.load(self.reference_file, allow_pickle=False) if is_known else unknown

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def num_tokens(self) -> int:
        return self.shards.num_tokens

    @property
    def tokenizer_digest(self) -> str:
        return self.shards.tokenizer_digest

    def row(self, index: int) -> PreferenceRow:
        return PreferenceRow(
            self.shards.row(index), bool(self.is_good[index]), self.reference[index], float(self.margin[index])
        )


def prepare_preferences(
    data: PreferenceData,
    files: Mapping[str, Sequence[RowFile]],
    renderer: Renderer,
    sequence_length_tokens: int,
    seed: int,
    out: Path,
    *,
    is_paired: bool,
    has_margins: bool = False,
    advance: Callable[[int], None] = lambda _: None,
    workers: RowWorkers | None = None,
) -> PreferenceCounts:
    """Writes rows to `out/train` and `out/heldout`; `workers` render them, by default processes on all cores.

    `has_margins`: whether a margin in a row means something.

    Raises InputError with every unusable row by number.
    """
    counts = PreferenceCounts()
    problems = RowProblems(data.leave_out)
    judged = _read(data, files, counts, seed, problems, advance, is_paired, has_margins)
    with closing(_RenderedAnswers(renderer, workers or RowProcesses())) as answers:
        rendered = answers.of([(row, row.answers) for row in judged], problems)
        problems.raise_any()
        rows = in_drawn_order(rendered, seed)
        if not is_paired:
            rows = _with_other_answers(rows, answers)
    rows = within_length(rows, data, sequence_length_tokens, counts, problems)
    parts = split_by_prompt(rows, data.heldout_rows, lambda row: _key(row.judged.prompt), problems)
    counts.left_out = dict(problems.left_out)
    digest = tokenizer_digest(renderer.tokenizer)
    for name, part in parts.items():
        writer = ShardWriter(out / name, len(renderer.tokenizer), digest, sequence_length_tokens=sequence_length_tokens)
        _write(part, writer)
        np.save(out / name / GOOD_NAME, np.asarray([row.judged.is_good for row in part]), allow_pickle=False)
        if has_margins:
            margins = np.asarray([row.judged.margin for row in part], np.float32)
            np.save(out / name / MARGIN_NAME, margins, allow_pickle=False)
        setattr(counts, name, _counted(part))
    return counts


@dataclass(frozen=True)
class _Pair:
    judged: JudgedRow
    samples: tuple[Sample, ...]

    @property
    def origin(self) -> str:
        return self.judged.origin

    @property
    def length_tokens(self) -> int:
        return sum(sample.num_tokens for sample in self.samples)


def _read(
    data: PreferenceData,
    files: Mapping[str, Sequence[RowFile]],
    counts: PreferenceCounts,
    seed: int,
    problems: RowProblems,
    advance: Callable[[int], None],
    is_paired: bool,
    has_margins: bool,
) -> list[JudgedRow]:
    kept = []
    for number, source in enumerate(data.sources):
        found = []
        for origin, row in table_rows(files[f"data.sources.{number}.dataset"], source):
            advance(1)
            try:
                judged = judged_row(row, source.format, origin, source.ignore_keys, has_margins)
                judged.check(is_paired)
                found.append(judged)
            except ConversationError as error:
                problems.add(origin, error)
        counts.rows_read[f"{number} {source.location}"] = len(found)
        counts.unknown_keys = dict(Counter(counts.unknown_keys) + Counter(key for row in found for key in row.unknown))
        if source.limit_rows is not None and len(found) > source.limit_rows:
            chosen = np.random.default_rng([seed, number]).permutation(len(found))[: source.limit_rows]
            found = [found[index] for index in sorted(chosen)]
        kept += found
    return kept


Asked = tuple[JudgedRow, tuple[Turns, ...]]
"""A row, and what is to be rendered behind its prompt."""


class _RenderedAnswers:
    """Renders answers in other processes, some rows at a time."""

    def __init__(self, renderer: Renderer, workers: RowWorkers) -> None:
        self._render, self._workers = AnswerRenderer(renderer), workers

    def of(self, asked: Sequence[Asked], problems: RowProblems) -> list[_Pair]:
        """The rows with their samples; those that cannot be rendered are added to the problems."""
        parts = (asked[begin : begin + ROWS_AT_ONCE] for begin in range(0, len(asked), ROWS_AT_ONCE))
        found = itertools.chain.from_iterable(self._workers.results(self._render, parts))
        pairs = []
        for (row, _), samples in zip(asked, found, strict=True):
            if isinstance(samples[0], Sample):
                pairs.append(_Pair(row, samples))
            else:
                problems.add_said(row.origin, *samples)
        return pairs

    def close(self) -> None:
        self._workers.close()


@dataclass(frozen=True)
class AnswerRenderer:
    """Renders answers, in any process."""

    renderer: Renderer

    def __call__(self, asked: Sequence[Asked]) -> list[tuple[Sample, ...] | tuple[str, str]]:
        """Of each row the samples of its answers, or which problem it has, and in words."""
        conversations = [answered(row, turns) for row, answers in asked for turns in answers]
        rendered = iter(self.renderer.samples_of_each(conversations))
        found: list[tuple[Sample, ...] | tuple[str, str]] = []
        for _, answers in asked:
            each = list(itertools.islice(rendered, len(answers)))
            error = next((one for one in each if isinstance(one, ConversationError)), None)
            samples = tuple(one[-1] for one in each if not isinstance(one, ConversationError))
            found.append((error.problem, str(error)) if error is not None else samples)
        return found


def answer_sample(renderer: Renderer, row: JudgedRow, turns: Turns) -> Sample:
    """The row's prompt and these turns behind it, of which only the last answer is a label."""
    return renderer.samples(answered(row, turns))[-1]


def answered(row: JudgedRow, turns: Turns) -> Conversation:
    """The conversation of which the sample of `answer_sample` is made."""
    context = [
        {**message, "train": False} if message.get("role") == "assistant" else message
        for message in (*row.prompt, *turns[:-1])
    ]
    return Conversation((*context, turns[-1]), row.tools, row.origin, row.template_kwargs)


def _with_other_answers(rows: Sequence[_Pair], answers: _RenderedAnswers) -> list[_Pair]:
    """Each row with the answer of the next one behind its own."""
    others, problems = [*rows[1:], *rows[:1]], RowProblems(())
    asked = [(row.judged, (other.judged.better,)) for row, other in zip(rows, others, strict=True)]
    second = answers.of(asked, problems)
    problems.raise_any()
    return [_Pair(row.judged, (*row.samples, *other.samples)) for row, other in zip(rows, second, strict=True)]


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
        "tokens": sum(sample.num_tokens for sample in samples),
        "trained_tokens": sum(sample.num_trained for sample in samples),
        "good": sum(row.judged.is_good for row in rows),
    }


def _key(prompt: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(prompt), sort_keys=True)
