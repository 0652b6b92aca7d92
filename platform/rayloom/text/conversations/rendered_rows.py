"""Rows of data sets rendered for training, block by block: filters applied, every bad row named."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayloom.reading.files import RowBlock
from rayloom.specs.training.training_data import ConversationData
from rayloom.text.conversations.formats import conversation
from rayloom.text.conversations.messages import ConversationError
from rayloom.text.conversations.render import Conversation, Renderer
from rayloom.text.conversations.samples import Sample
from rayloom.text.packed.shards import token_type

ROWS_AT_ONCE = 256
"""So many rows are tokenised together."""
ROW = np.dtype(
    [("number", "<i8"), ("digest", "<u8", 2), ("file", "<i4"), ("source", "<i4"), ("samples", "<i4"), ("length", "<i4")]
)
"""A rendered row: its number in its file; a digest, equal for rows that train the same ids; the places of its file and
its source; its samples, and the tokens of the longest."""
SAMPLE = np.dtype([("length", "<i4"), ("labels", "<i4")])


class RowsToRender(NamedTuple):
    """A block of rows of a source."""

    source: int
    file: int
    """The place of the block's file among all files."""
    block: RowBlock
    chosen: frozenset[int] | None = None
    """Which of the block's conversations are rendered, by number; None: all."""


@dataclass(frozen=True)
class RenderedBlock:
    """What became of a block."""

    num_read: int
    num_conversations: int
    """Rows that could be read as conversations."""
    arrays: dict[str, NDArray[Any]]
    """`tokens` and `labels` of all samples, and the tables `rows` and `samples`."""
    unreadable: list[tuple[str, str, str]]
    """Rows that could not: where, which problem, and in words."""
    problems: list[tuple[str, str, str]]
    """Conversations that could not be rendered."""
    left_out: Counter[str]
    unknown_keys: Counter[str]
    bytes_read: int

    def said(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "arrays"}
        return values | {"num_kept": len(self.arrays["rows"])}


class BlockRenderer:
    """Renders blocks of rows, in any process."""

    def __init__(self, data: ConversationData, renderer: Renderer) -> None:
        self.data, self.renderer = data, renderer
        self.token_type = np.dtype(token_type(len(renderer.tokenizer)))

    def __call__(self, asked: RowsToRender) -> RenderedBlock:
        found = RenderedBlock(0, 0, {}, [], [], Counter(), Counter(), asked.block.bytes_read)
        source, read, num_read = self.data.sources[asked.source], list[Conversation](), 0
        for origin, row in asked.block.named():
            num_read += 1
            try:
                one = conversation(row, source.format, source.fill, origin, source.ignore_keys)
                read.append(_with_system(one, self.data.system))
            except ConversationError as error:
                found.unreadable.append((origin, error.problem, str(error)))
        found.unknown_keys.update(key for row in read for key in row.unknown_keys)
        numbers = [n for n in range(len(read)) if asked.chosen is None or n in asked.chosen]
        rows: list[tuple[Any, ...]] = []
        samples: list[Sample] = []
        for begin in range(0, len(numbers), ROWS_AT_ONCE):
            some = numbers[begin : begin + ROWS_AT_ONCE]
            rendered = self.renderer.samples_of_each([read[number] for number in some])
            for number, of_one in zip(some, rendered, strict=True):
                if isinstance(of_one, ConversationError):
                    found.problems.append((read[number].origin, of_one.problem, str(of_one)))
                    continue
                length = max(sample.num_tokens for sample in of_one)
                if source.max_row_tokens is not None and length > source.max_row_tokens:
                    found.left_out["longer_than_max_row_tokens"] += 1
                    continue
                place = int(read[number].origin.rpartition(" ")[2])
                rows.append((place, _digest(of_one), asked.file, asked.source, len(of_one), length))
                samples += of_one
        found.arrays.update(self._arrays(rows, samples))
        return replace(found, num_read=num_read, num_conversations=len(read))

    def _arrays(self, rows: Sequence[tuple[Any, ...]], samples: Sequence[Sample]) -> dict[str, NDArray[Any]]:
        tokens = np.frombuffer(b"".join([sample.ids for sample in samples]), "<u4").astype(self.token_type)
        labels, begin = np.zeros(len(tokens), np.bool_), 0
        for sample in samples:
            for first, last in sample.spans:
                labels[begin + first : begin + last] = True
            begin += sample.num_tokens
        table = np.asarray([(sample.num_tokens, sample.num_trained) for sample in samples], SAMPLE)
        return {"tokens": tokens, "labels": labels, "rows": np.asarray(rows, ROW), "samples": table}


def _with_system(read: Conversation, system: str | None) -> Conversation:
    brings_one = read.messages and read.messages[0].get("role") in ("system", "developer")
    if system is None or brings_one:
        return read
    return replace(read, messages=({"role": "system", "content": system}, *read.messages))


def _digest(samples: Sequence[Sample]) -> tuple[int, int]:
    content = hashlib.blake2b(digest_size=16)
    for sample in samples:
        content.update(repr((len(sample.ids), sample.spans)).encode())
        content.update(sample.ids)
    digest = content.digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


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
