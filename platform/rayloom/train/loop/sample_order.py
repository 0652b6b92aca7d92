"""Which row stands at which place of a run: a pure function of (seed, epoch, index), without any table.

The order of an epoch is a permutation by a Feistel network on the smallest power of four that holds all rows; places
that fall outside are walked on until they fall inside (cycle walking, Black & Rogaway 2002). Any place is computed on
its own in constant memory, so a position in the data is one number, whatever the number of workers.

Shapes: N places asked for.
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
    """Rows of one data set, and its part of all rows of the run (in any unit: only the ratio counts)."""

    num_rows: int
    share: float = 1.0


def located(positions: Integers, sources: Sequence[Source], seed: int) -> tuple[Integers, Integers]:
    """(N,) source and (N,) row of it at each position of the run.

    Sources alternate as evenly as their shares allow, and each goes through epochs of its own.
    """
    chosen, counts = _alternated(positions, [source.share for source in sources])
    rows = np.empty_like(positions)
    for number, source in enumerate(sources):
        here = chosen == number
        epochs, indices = np.divmod(counts[here], source.num_rows)
        found = np.empty_like(indices)
        for epoch in np.unique(epochs):
            part = epochs == epoch
            found[part] = permuted(indices[part], source.num_rows, seed, int(epoch), number)
        rows[here] = found
    return chosen, rows


def permuted(indices: Integers, num_rows: int, seed: int, epoch: int, source: int = 0) -> Integers:
    """(N,) the row at each index of an epoch; over all indices every row comes exactly once."""
    half_bits = max(1, (int(num_rows - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, epoch, source)
    places = indices.astype(np.uint64)
    outside = np.ones(len(places), np.bool_)
    while outside.any():
        places[outside] = _feistel(places[outside], half_bits, keys)
        outside = places >= num_rows
    return places.astype(np.int64)


def _alternated(positions: Integers, shares: Sequence[float]) -> tuple[Integers, Integers]:
    """(N,) source at each position, and (N,) how many rows of that source came before."""
    chosen = np.zeros_like(positions)
    counts = np.zeros_like(positions)
    waiting = np.ones(len(positions), np.bool_)
    left = positions.copy()
    for number in range(len(shares)):
        # The first source against all later ones; then the places left to those, in the same way.
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


def _round_keys(seed: int, epoch: int, source: int) -> _Words:
    words = np.random.SeedSequence([seed, epoch, source]).generate_state(NUM_ROUNDS, np.uint64)
    return np.asarray(words, np.uint64)


def _mixed(words: _Words) -> _Words:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every bit of the input moves every bit of the output."""
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
