"""Exact Jaccard similarity of two documents' sets of shingle hashes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def jaccard(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    """|A ∩ B| / |A ∪ B| of two sorted arrays of hashes; 1 for two empty ones."""
    if not len(first) and not len(second):
        return 1.0
    if len(first) > len(second):
        first, second = second, first
    indices = np.minimum(np.searchsorted(second, first), len(second) - 1)
    shared = int((second[indices] == first).sum())
    return shared / (len(first) + len(second) - shared)


def is_similar(first: NDArray[np.uint64], second: NDArray[np.uint64], threshold: float) -> bool:
    # 9 shared of 10 must reach a threshold of 0.9 despite rounding of the quotient.
    return jaccard(first, second) >= threshold - 1e-12
