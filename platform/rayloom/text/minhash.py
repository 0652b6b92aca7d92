"""Near duplicates of a text: MinHash bands under which candidates meet, and the exact Jaccard similarity of a pair.

Broder 1997; Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, chapter 3. Documents that share a band key are
candidates; whether a pair is a duplicate is then decided by its exact similarity.

Shapes: S shingles of a document, H = bands × rows hash functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayloom.text.text_views import mixed

SEED = 19970611
SHINGLES_AT_ONCE = 4096
"""Batch size; the table of permuted shingles then fits into the processor's cache."""


class Bands:
    """`num_bands` keys of 64 bits for a set of shingles."""

    def __init__(self, num_bands: int, rows_per_band: int) -> None:
        self.num_bands, self.rows_per_band = num_bands, rows_per_band
        random = np.random.Generator(np.random.PCG64(SEED))
        count = num_bands * rows_per_band
        # x → a·x + b modulo 2^32 with odd a permutes the 32-bit numbers; shingle hashes are uniform already.
        self._factors = random.integers(0, 1 << 32, (count, 1), np.uint32) | np.uint32(1)
        self._terms = random.integers(0, 1 << 32, (count, 1), np.uint32)
        self._row_factors = random.integers(0, 1 << 64, rows_per_band, np.uint64) | np.uint64(1)
        self._band_terms = random.integers(0, 1 << 64, num_bands, np.uint64)

    def signature(self, shingles: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """(H,) the minimum of each permutation over the S shingles."""
        values = (shingles >> np.uint64(32)).astype(np.uint32)
        smallest = np.full(len(self._factors), np.iinfo(np.uint32).max, np.uint32)
        for begin in range(0, len(values), SHINGLES_AT_ONCE):
            permuted = self._factors * values[begin : begin + SHINGLES_AT_ONCE]
            permuted += self._terms
            np.minimum(smallest, permuted.min(axis=1), out=smallest)
        return smallest

    def keys(self, shingles: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """(bands,) one key for each band. The band's number is hashed in, so keys of different bands do not match."""
        rows = self.signature(shingles).reshape(self.num_bands, self.rows_per_band).astype(np.uint64)
        return mixed((rows * self._row_factors).sum(axis=1, dtype=np.uint64) + self._band_terms)


# Exact Jaccard similarity of two documents' sets of shingle hashes.


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
