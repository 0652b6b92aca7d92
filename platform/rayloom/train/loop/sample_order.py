"""The row at each position of a run: a pure function of (seed, epoch, index), without a stored permutation.

Each epoch's order is a Feistel permutation of the smallest power of four that is at least the number of rows. Results
outside the rows are permuted again until they are inside (cycle walking, Black & Rogaway 2002). Each position is
computed on its own in constant memory, so the data position of a run is one number for any number of workers.

Shapes: N positions asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_ROUNDS = 6

Integers = NDArray[np.int64]
_Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Source:
    """A data set's number of rows, and its share of the run's rows, relative to the other sources' shares."""

    num_rows: int
    share: float = 1.0


def located(positions: Integers, sources: Sequence[Source], seed: int) -> tuple[Integers, Integers]:
    """(N,) source, and (N,) row of that source, at each position of the run.

    Sources are interleaved as evenly as their shares allow; each has its own epochs.
    """
    chosen, counts = _alternated(positions, [source.share for source in sources])
    rows = np.empty_like(positions)
    for number, source in enumerate(sources):
        here = chosen == number
        epochs, indices = np.divmod(counts[here], source.num_rows)
        rows_of_source = np.empty_like(indices)
        for epoch in np.unique(epochs):
            part = epochs == epoch
            rows_of_source[part] = permuted(indices[part], source.num_rows, seed, int(epoch), number)
        rows[here] = rows_of_source
    return chosen, rows


def permuted(indices: Integers, num_rows: int, seed: int, epoch: int, *part: int) -> Integers:
    """(N,) the row at each index of an epoch, or of a part of one: a permutation of range(num_rows)."""
    half_bits = max(1, (int(num_rows - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, epoch, *part)
    places = indices.astype(np.uint64)
    outside = np.ones(len(places), np.bool_)
    while outside.any():
        places[outside] = _feistel(places[outside], half_bits, keys)
        outside = places >= num_rows
    return places.astype(np.int64)


def _alternated(positions: Integers, shares: Sequence[float]) -> tuple[Integers, Integers]:
    """(N,) source at each position, and (N,) number of earlier positions with that source."""
    chosen = np.zeros_like(positions)
    counts = np.zeros_like(positions)
    waiting = np.ones(len(positions), np.bool_)
    left = positions.copy()
    for number in range(len(shares)):
        # Positions are split between this source and all later ones; the rest is split again in the next round.
        share = shares[number] / sum(shares[number:])
        before, after = np.floor(left * share), np.floor((left + 1) * share)
        here = waiting & ((after > before) | (number == len(shares) - 1))
        chosen[here], counts[here] = number, before[here]
        waiting &= ~here
        left = left - before.astype(np.int64)
    return chosen, counts


def _feistel(places: _Words, half_bits: int, keys: _Words) -> _Words:
    mask = np.uint64((1 << half_bits) - 1)
    left, right = places >> np.uint64(half_bits), places & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << np.uint64(half_bits)) | right


def _round_keys(*words_of_seed: int) -> _Words:
    words = np.random.SeedSequence(words_of_seed).generate_state(NUM_ROUNDS, np.uint64)
    return np.asarray(words, np.uint64)


def _mixed(words: _Words) -> _Words:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): each input bit affects every output bit."""
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
