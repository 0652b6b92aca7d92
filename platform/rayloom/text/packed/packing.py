"""Samples put into rows of a fixed length, so that few places of a batch are empty."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray


def best_fit_decreasing(lengths: NDArray[np.int64], capacity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which samples share a row: samples by row, and where in that order each row begins.

    The longest come first, each into the fullest row that takes it. No length may be over `capacity`. Takes
    O(n · capacity / 64) steps: the rows' free places are bits of one integer.
    """
    order = np.argsort(-lengths, kind="stable")
    row_of = array("q")
    num_rows = 0
    rows_with_free: dict[int, list[int]] = {}
    free_places = 0  # bit f is set where some row has f places left
    for length in lengths[order].tolist():
        fitting = free_places >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = rows_with_free[free].pop()
            if not rows_with_free[free]:
                free_places &= ~(1 << free)
        else:
            free, row = capacity, num_rows
            num_rows += 1
        row_of.append(row)
        left = free - length
        if left:
            rows_with_free.setdefault(left, []).append(row)
            free_places |= 1 << left
    rows = np.frombuffer(row_of, np.int64) if row_of else np.zeros(0, np.int64)
    by_row = np.argsort(rows, kind="stable")
    return order[by_row], np.searchsorted(rows[by_row], np.arange(num_rows))


def shuffled(
    samples: NDArray[np.int64], begins: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same rows in an order that the seed decides.

    Best fit leaves the longest first, and a run that ends early should have seen all kinds.
    """
    order = np.random.default_rng([seed, len(begins)]).permutation(len(begins))
    sizes = np.diff(np.append(begins, len(samples)))[order]
    return samples[ranges(begins[order], sizes)], np.append(0, np.cumsum(sizes))[: len(begins)]


def ranges(begins: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from each beginning on, as many as its size says, one range behind the other."""
    first = np.cumsum(sizes) - sizes
    found: NDArray[np.int64] = np.repeat(begins - first, sizes) + np.arange(int(sizes.sum()))
    return found
