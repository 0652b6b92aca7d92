"""Rows of data sets rendered for training: filters and limits applied, every bad row named."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from rayloom.reading.files import RowFile, table_rows
from rayloom.specs.training.training_data import ConversationData, ConversationSource
from rayloom.text.conversations.formats import conversation
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.conversations.render import Conversation, Renderer, Sample
from rayloom.text.row_problems import RowProblems

ROWS_AT_ONCE = 64
"""So many rows are tokenised together."""


@dataclass(frozen=True)
class RenderedRow:
    """One row of a data set, ready for training."""

    origin: str
    samples: tuple[Sample, ...]
    source: int
    repeat: int
    digest: bytes
    """Equal for rows that would train the same ids."""

    @property
    def length_tokens(self) -> int:
        return max(sample.num_tokens for sample in self.samples)


def render_rows(
    data: ConversationData,
    files: Mapping[str, Sequence[RowFile]],
    renderer: Renderer,
    seed: int,
    counts: ConversationCounts,
    advance: Callable[[int], None] = lambda _: None,
) -> list[RenderedRow]:
    """The rows of all sources after their filters and limits, in order. Raises InputError naming every bad row.

    `files`: as in `conversations.prepare`. `advance` is told of every row that is dealt with.
    """
    left_out, unknown = Counter[str](), Counter[str]()
    problems = RowProblems(data.leave_out, left_out)
    rendered: list[RenderedRow] = []
    for number, source in enumerate(data.sources):
        read = [*table_rows(files[f"data.sources.{number}.dataset"], source)]
        counts.rows_read[f"{number} {source.location}"] = len(read)
        rows = [
            _with_system(found, data.system)
            for origin, row in read
            if (found := _conversation(row, source, origin, problems)) is not None
        ]
        unknown.update(key for row in rows for key in row.unknown_keys)
        # In an order of its own, so that a limit takes rows from everywhere; then in the files' order again.
        order = [int(index) for index in np.random.default_rng([seed, number]).permutation(len(rows))]
        kept: dict[int, RenderedRow] = {}
        for index, samples in _samples(rows, order, renderer, kept, source.limit_rows):
            advance(1)
            if samples is None:
                left_out["over_limit_rows"] += 1
            elif isinstance(samples, ConversationError):
                problems.add(rows[index].origin, samples)
            else:
                row = _rendered(rows[index].origin, samples, number, source.repeat)
                if source.max_row_tokens is not None and row.length_tokens > source.max_row_tokens:
                    left_out["longer_than_max_row_tokens"] += 1
                else:
                    kept[index] = row
        rendered += [kept[index] for index in sorted(kept)]
    problems.raise_any()
    counts.left_out, counts.unknown_keys = dict(left_out), dict(unknown)
    return rendered


def _conversation(row: object, source: ConversationSource, origin: str, problems: RowProblems) -> Conversation | None:
    try:
        return conversation(row, source.format, source.fill, origin, source.ignore_keys)
    except ConversationError as error:
        problems.add(origin, error)
        return None


def _with_system(read: Conversation, system: str | None) -> Conversation:
    brings_one = read.messages and read.messages[0].get("role") in ("system", "developer")
    if system is None or brings_one:
        return read
    return replace(read, messages=({"role": "system", "content": system}, *read.messages))


def _samples(
    rows: Sequence[Conversation],
    order: Sequence[int],
    renderer: Renderer,
    kept: Mapping[int, RenderedRow],
    limit: int | None,
) -> Iterator[tuple[int, list[Sample] | ConversationError | None]]:
    """By number of the row, its samples or what is wrong with it; None from where as many as the limit are kept."""

    def is_full() -> bool:
        return limit is not None and len(kept) >= limit

    for start in range(0, len(order), ROWS_AT_ONCE):
        numbers = order[start : start + ROWS_AT_ONCE]
        found = renderer.samples_of_each([rows[number] for number in numbers]) if not is_full() else numbers
        for number, samples in zip(numbers, found, strict=True):
            yield number, None if is_full() or isinstance(samples, int) else samples


def _rendered(origin: str, samples: Sequence[Sample], source: int, repeat: int) -> RenderedRow:
    content = hashlib.blake2b(digest_size=16)
    for sample in samples:
        content.update(repr((len(sample.ids), sample.spans)).encode())
        content.update(sample.ids)
    return RenderedRow(origin, tuple(samples), source, repeat, content.digest())


# Where every row of a set of conversations went.


@dataclass
class SplitCounts:
    """What is in `train/` or `heldout/`; repeated rows count as often as they are repeated."""

    rows: int = 0
    samples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    packed_rows: int = 0
    filled_share: float = 0.0
    """Part of the packed rows' places that hold a token."""


@dataclass
class ConversationCounts:
    """Where every row went."""

    rows_read: dict[str, int] = field(default_factory=dict)
    """By source: the data set's reference and number."""
    left_out: dict[str, int] = field(default_factory=dict)
    """By reason: longer_than_max_row_tokens, over_limit_rows, same_as_a_heldout_row,
    longer_than_sequence_length, and the problems that the spec's `leave_out` names."""
    unknown_keys: dict[str, int] = field(default_factory=dict)
    """Keys of rows and messages (`messages.KEY`) that have no meaning, by how many have them."""
    truncated_rows: int = 0
    lengths_tokens: dict[str, int] = field(default_factory=dict)
    """Of rows before the length policy: median, p90, p99, longest."""
    repeated_in_training: int = 0
    """Training rows that train the same ids as an earlier one, beyond what `repeat` asks for."""
    train: SplitCounts = field(default_factory=SplitCounts)
    heldout: SplitCounts = field(default_factory=SplitCounts)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
