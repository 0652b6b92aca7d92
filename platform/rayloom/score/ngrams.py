"""What counting alone reaches on held-out text: the perplexities that a trained model must beat.

Unigram: add-one smoothing (Laplace). Bigram: Witten & Bell 1991, interpolated with that unigram,
p(w | h) = (c(h, w) + t(h) · p(w)) / (c(h) + t(h)), where t(h) is how many different tokens followed h.

Both see exactly the labels that a model is scored on: a token whose row holds the token before it, in one document.

Shapes: V tokens in the vocabulary, L labels, D different bigrams.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from rayloom.errors import InputError

if TYPE_CHECKING:
    from rayloom.score.batches import PackedRow

ROWS_AT_ONCE = 2048


class TokenRows(Protocol):
    """Rows of token ids by number, wherever they are read from."""

    @property
    def directory(self) -> Path: ...
    @property
    def vocabulary_size(self) -> int: ...
    def __len__(self) -> int: ...
    def row(self, index: int) -> PackedRow: ...


@dataclass(frozen=True)
class NgramPerplexities:
    """Perplexity per label of the held-out rows."""

    unigram: float
    bigram: float
    num_labels: int


@dataclass(frozen=True)
class BigramCounts:
    """How often tokens and pairs of tokens occur; pairs are `before · V + token`, sorted."""

    vocabulary_size: int
    tokens: NDArray[np.int64]
    """(V,)"""
    pairs: NDArray[np.int64]
    """(D,)"""
    pair_counts: NDArray[np.int64]
    """(D,)"""


def ngram_perplexities(train: TokenRows, heldout: TokenRows) -> NgramPerplexities:
    """Counts `train`, scores `heldout`. Raises InputError where their vocabularies differ or there is no label."""
    if train.vocabulary_size != heldout.vocabulary_size:
        what = f"Training has {train.vocabulary_size} tokens, held-out text {heldout.vocabulary_size}"
        raise InputError(what, where=str(heldout.directory), fix="Name shards of one corpus.")
    return scored(counted(train), heldout)


def counted(shards: TokenRows) -> BigramCounts:
    """Memory: a few times the different bigrams of the shards, which grow far slower than its tokens."""
    size = shards.vocabulary_size
    tokens = np.zeros(size, np.int64)
    pairs, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for before, labels, everything in _blocks(shards):
        tokens += np.bincount(everything, minlength=size)
        new_pairs, new_counts = np.unique(before * size + labels, return_counts=True)
        pairs, counts = _merged(pairs, counts, new_pairs, new_counts)
    return BigramCounts(size, tokens, pairs, counts)


def scored(counts: BigramCounts, shards: TokenRows) -> NgramPerplexities:
    size = counts.vocabulary_size
    unigram = (counts.tokens + 1) / (counts.tokens.sum() + size)
    contexts = counts.pairs // size
    followers = np.bincount(contexts, minlength=size)
    occurrences = np.bincount(contexts, weights=counts.pair_counts, minlength=size)
    unigram_nats = bigram_nats = 0.0
    num_labels = 0
    for before, labels, _ in _blocks(shards):
        base = unigram[labels]
        total = occurrences[before] + followers[before]
        seen = _lookup(counts, before * size + labels) + followers[before] * base
        # A token never seen as a context has no followers: the unigram speaks for it.
        bigram = np.where(total > 0, seen / np.maximum(total, 1), base)
        unigram_nats -= float(np.log(base).sum())
        bigram_nats -= float(np.log(bigram).sum())
        num_labels += len(labels)
    if not num_labels:
        raise InputError("The held-out rows have no label", where=str(shards.directory), fix="Hold more text out.")
    return NgramPerplexities(math.exp(unigram_nats / num_labels), math.exp(bigram_nats / num_labels), num_labels)


def _blocks(shards: TokenRows) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """(L,) the token before each label, (L,) the labels, and all tokens, of some thousand rows at a time."""
    for begin in range(0, len(shards), ROWS_AT_ONCE):
        rows = [shards.row(index) for index in range(begin, min(begin + ROWS_AT_ONCE, len(shards)))]
        tokens = np.concatenate([row.tokens for row in rows])
        places = np.flatnonzero(np.concatenate([row.trained & (row.positions > 0) for row in rows]))
        yield tokens[places - 1], tokens[places], tokens


def _merged(
    pairs: NDArray[np.int64], counts: NDArray[np.int64], more: NDArray[np.int64], more_counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    both, places = np.unique(np.concatenate([pairs, more]), return_inverse=True)
    sums = np.bincount(places, weights=np.concatenate([counts, more_counts]), minlength=len(both))
    return both, sums.astype(np.int64)


def _lookup(counts: BigramCounts, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(L,) how often each pair occurred."""
    if not len(counts.pairs):
        return np.zeros(len(pairs), np.int64)
    places = np.minimum(np.searchsorted(counts.pairs, pairs), len(counts.pairs) - 1)
    return np.where(counts.pairs[places] == pairs, counts.pair_counts[places], 0)
