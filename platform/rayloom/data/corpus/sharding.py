"""Shards of the corpus, put together from the chunks' tokens, cut between documents and written in parallel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.data.corpus.tokenize_pass import Split
from rayloom.text.packed.shards import save_shard


@dataclass(frozen=True)
class Piece:
    """Consecutive documents of one chunk."""

    chunk: str
    first_document: int
    num_documents: int
    first_token: int
    num_tokens: int


@dataclass(frozen=True)
class ShardPlan:
    """The pieces of chunks that make up one shard."""

    split: Split
    number: int
    pieces: tuple[Piece, ...]

    @property
    def facts(self) -> dict[str, int]:
        tokens = sum(piece.num_tokens for piece in self.pieces)
        return {"num_tokens": tokens, "num_documents": sum(piece.num_documents for piece in self.pieces)}


def planned(folder: Path, chunks: Sequence[str], split: Split, shard_tokens: int) -> list[ShardPlan]:
    """Shards in the order of the documents; each ends with the document that brings it to `shard_tokens`."""
    plans: list[ShardPlan] = []
    pieces: list[Piece] = []
    filled = 0
    for chunk in chunks:
        ends = np.cumsum(_sizes(folder, chunk, split))
        begin = 0
        while begin < len(ends):
            base = int(ends[begin - 1]) if begin else 0
            # The first document at whose end the shard has all its tokens.
            last = min(int(np.searchsorted(ends, base + shard_tokens - filled)), len(ends) - 1)
            tokens = int(ends[last]) - base
            pieces.append(Piece(chunk, begin, last + 1 - begin, base, tokens))
            filled += tokens
            begin = last + 1
            if filled >= shard_tokens:
                plans.append(ShardPlan(split, len(plans), tuple(pieces)))
                pieces, filled = [], 0
    return [*plans, ShardPlan(split, len(plans), tuple(pieces))] if pieces else plans


def write_shard(folder: Path, target: Path, plan: ShardPlan, dtype: Any) -> None:
    """Writes one shard from the chunks' files."""
    tokens = [_tokens(folder, piece, plan.split, dtype) for piece in plan.pieces]
    sizes = [_sizes(folder, p.chunk, plan.split)[p.first_document :][: p.num_documents] for p in plan.pieces]
    starts = np.append(0, np.cumsum(np.concatenate(sizes))[:-1])
    save_shard(target, plan.number, np.concatenate(tokens), starts.astype(np.int64))


def _sizes(folder: Path, chunk: str, split: Split) -> NDArray[np.int64]:
    return np.fromfile(folder / f"{chunk}.{split}.sizes", np.int64)


def _tokens(folder: Path, piece: Piece, split: Split, dtype: Any) -> NDArray[Any]:
    kind = np.dtype(dtype)
    path = folder / f"{piece.chunk}.{split}.tokens"
    return np.fromfile(path, kind, count=piece.num_tokens, offset=piece.first_token * kind.itemsize)
