"""Perplexities of unigram and bigram models on held-out text: baselines for a trained model.

Unigram: add-one smoothing (Laplace). Bigram: Witten & Bell 1991, interpolated with that unigram,
p(w | h) = (c(h, w) + t(h) · p(w)) / (c(h) + t(h)), where t(h) is the number of distinct tokens that follow h.

In a large corpus only evenly spaced rows are counted. More counts lower the bigram perplexity, and each doubling by a
smaller factor than the last. So the perplexity with all counts is between the measured one and an extrapolation in
which each further doubling gains the same factor as the last.

Both are scored on the same labels as a model: tokens with a token of the same document before them in the row.

Shapes: V tokens in the vocabulary, L labels, D distinct bigrams.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from rayloom.errors import InputError

if TYPE_CHECKING:
    from rayloom.score.batches import PackedRow

ROWS_AT_ONCE = 2048
MOST_COUNTED_TOKENS = 20_000_000
"""Counting these takes seconds on one core; 147 billion tokens would take days."""


class TokenRows(Protocol):
    """Rows of token ids by number, from any source."""

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
    num_counted_tokens: int
    bigram_at_least: float
    """Lower bound of the bigram perplexity with all counts; equal to `bigram` unless only a sample was counted."""


@dataclass(frozen=True)
class BigramCounts:
    """Counts of tokens and bigrams."""

    vocabulary_size: int
    tokens: NDArray[np.int64]
    """(V,) count of each token."""
    pairs: NDArray[np.int64]
    """(D,) distinct bigrams as first · V + second, sorted."""
    pair_counts: NDArray[np.int64]
    """(D,) count of each bigram."""


def ngram_perplexities(
    train: TokenRows, heldout: TokenRows, most_tokens: int = MOST_COUNTED_TOKENS
) -> NgramPerplexities:
    """Perplexities on `heldout` with counts from `train`, or from about `most_tokens` of it.

    Raises InputError if their vocabularies differ or there is no label.
    """
    if train.vocabulary_size != heldout.vocabulary_size:
        what = f"Training has {train.vocabulary_size} tokens, held-out text {heldout.vocabulary_size}"
        raise InputError(what, where=str(heldout.directory), fix="Name shards of one corpus.")
    num_rows = len(train)
    num_counted = min(num_rows, max(2, most_tokens // len(train.row(0).tokens))) if num_rows else 0
    numbers = [index * num_rows // num_counted for index in range(num_counted)]
    half = counted(train, numbers[::2])
    whole = _both(half, counted(train, numbers[1::2]))
    perplexities = scored(whole, heldout)
    if num_counted == num_rows:
        return perplexities
    gained = perplexities.bigram / scored(half, heldout).bigram
    return replace(
        perplexities, bigram_at_least=perplexities.bigram * min(1.0, gained) ** math.log2(num_rows / num_counted)
    )


def counted(shards: TokenRows, numbers: Sequence[int]) -> BigramCounts:
    """Counts of these rows. Memory is proportional to the distinct bigrams, which grow far slower than the tokens."""
    size = shards.vocabulary_size
    nothing = np.zeros(0, np.int64)
    counts = BigramCounts(size, np.zeros(size, np.int64), nothing, nothing)
    for before, labels, everything in _blocks(shards, numbers):
        pairs, pair_counts = np.unique(before * size + labels, return_counts=True)
        counts = _both(counts, BigramCounts(size, np.bincount(everything, minlength=size), pairs, pair_counts))
    return counts


def _both(one: BigramCounts, other: BigramCounts) -> BigramCounts:
    pairs, places = np.unique(np.concatenate([one.pairs, other.pairs]), return_inverse=True)
    sums = np.bincount(places, np.concatenate([one.pair_counts, other.pair_counts]), minlength=len(pairs))
    return BigramCounts(one.vocabulary_size, one.tokens + other.tokens, pairs, sums.astype(np.int64))


def scored(counts: BigramCounts, shards: TokenRows) -> NgramPerplexities:
    size = counts.vocabulary_size
    unigram = (counts.tokens + 1) / (counts.tokens.sum() + size)
    contexts = counts.pairs // size
    followers = np.bincount(contexts, minlength=size)
    occurrences = np.bincount(contexts, weights=counts.pair_counts, minlength=size)
    unigram_nats = bigram_nats = 0.0
    num_labels = 0
    for before, labels, _ in _blocks(shards, range(len(shards))):
        base = unigram[labels]
        total = occurrences[before] + followers[before]
        seen = _lookup(counts, before * size + labels) + followers[before] * base
        # After a token that was never seen as a context, the unigram model is used.
        bigram = np.where(total > 0, seen / np.maximum(total, 1), base)
        unigram_nats -= float(np.log(base).sum())
        bigram_nats -= float(np.log(bigram).sum())
        num_labels += len(labels)
    if not num_labels:
        raise InputError("The held-out rows have no label", where=str(shards.directory), fix="Hold more text out.")
    perplexities = math.exp(unigram_nats / num_labels), math.exp(bigram_nats / num_labels)
    return NgramPerplexities(*perplexities, num_labels, int(counts.tokens.sum()), perplexities[1])


def _blocks(
    shards: TokenRows, numbers: Sequence[int]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """(L,) the token before each label, (L,) the labels, and all tokens, for ROWS_AT_ONCE rows at a time."""
    for begin in range(0, len(numbers), ROWS_AT_ONCE):
        rows = [shards.row(index) for index in numbers[begin : begin + ROWS_AT_ONCE]]
        tokens = np.concatenate([row.tokens for row in rows])
        places = np.flatnonzero(np.concatenate([row.trained & (row.positions > 0) for row in rows]))
        yield tokens[places - 1], tokens[places], tokens


def _lookup(counts: BigramCounts, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(L,) count of each bigram."""
    if not len(counts.pairs):
        return np.zeros(len(pairs), np.int64)
    places = np.minimum(np.searchsorted(counts.pairs, pairs), len(counts.pairs) - 1)
    return np.where(counts.pairs[places] == pairs, counts.pair_counts[places], 0)
