"""What counting alone reaches on held-out text: the perplexities that a trained model must beat.

Unigram: add-one smoothing (Laplace). Bigram: Witten & Bell 1991, interpolated with that unigram,
p(w | h) = (c(h, w) + t(h) · p(w)) / (c(h) + t(h)), where t(h) is how many different tokens followed h.

Of a large corpus rows spread over all of it are counted. More counts lower a bigram's perplexity, by less with each
doubling, so what all of them would give lies between the figure and one from which each further doubling took as much
as the last one did.

Both see exactly the labels that a model is scored on: a token whose row holds the token before it, in one document.

Shapes: V tokens in the vocabulary, L labels, D different bigrams.
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
"""Seconds on one core; all of a corpus of 147 billion tokens would be days."""


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
    num_counted_tokens: int
    bigram_at_least: float
    """Below `bigram` if only a sample was counted: all of the text would give one between the two."""


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


def ngram_perplexities(
    train: TokenRows, heldout: TokenRows, most_tokens: int = MOST_COUNTED_TOKENS
) -> NgramPerplexities:
    """Counts `train`, or about `most_tokens` of it, and scores `heldout`.

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
    found = scored(whole, heldout)
    if num_counted == num_rows:
        return found
    gained = found.bigram / scored(half, heldout).bigram
    return replace(found, bigram_at_least=found.bigram * min(1.0, gained) ** math.log2(num_rows / num_counted))


def counted(shards: TokenRows, numbers: Sequence[int]) -> BigramCounts:
    """Of these rows. Memory: a few times their different bigrams, which grow far slower than their tokens."""
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
        # A token never seen as a context has no followers: the unigram speaks for it.
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
    """(L,) the token before each label, (L,) the labels, and all tokens, of some thousand rows at a time."""
    for begin in range(0, len(numbers), ROWS_AT_ONCE):
        rows = [shards.row(index) for index in numbers[begin : begin + ROWS_AT_ONCE]]
        tokens = np.concatenate([row.tokens for row in rows])
        places = np.flatnonzero(np.concatenate([row.trained & (row.positions > 0) for row in rows]))
        yield tokens[places - 1], tokens[places], tokens


def _lookup(counts: BigramCounts, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(L,) how often each pair occurred."""
    if not len(counts.pairs):
        return np.zeros(len(pairs), np.int64)
    places = np.minimum(np.searchsorted(counts.pairs, pairs), len(counts.pairs) - 1)
    return np.where(counts.pairs[places] == pairs, counts.pair_counts[places], 0)
