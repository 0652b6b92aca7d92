"""Samples put into rows of a fixed length, so that few places of a batch are empty."""

from __future__ import annotations

from collections.abc import Sequence


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which samples share a row: indices of `lengths` by row, longest first, each into the fullest row that takes it.

    No length may be over `capacity`. Takes O(n · capacity / 64) steps: the rows' free places are bits of one integer.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    rows: list[list[int]] = []
    rows_with_free: dict[int, list[int]] = {}
    free_places = 0  # bit f is set where some row has f places left
    for index in order:
        length = lengths[index]
        fitting = free_places >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = rows_with_free[free].pop()
            if not rows_with_free[free]:
                free_places &= ~(1 << free)
        else:
            free, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        left = free - length
        if left:
            rows_with_free.setdefault(left, []).append(row)
            free_places |= 1 << left
    return rows
