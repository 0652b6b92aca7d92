"""Hashes of many overlapping byte ranges of one document in a few array operations.

The polynomial hash of any range is a difference of prefix sums of b[j] · p^j modulo 2^64, times p^-start. So each word
shingle or n-gram costs a few operations, whatever its length. MurmurHash3's finaliser then mixes the bits, because the
low bits of a polynomial modulo 2^64 are weak.

Shapes: S ranges.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

U64 = np.uint64

_BASE = 0x9E3779B97F4A7C15 | 1
_BYTE_VALUES = np.random.Generator(np.random.PCG64(20211218)).integers(0, 1 << 64, 256, dtype=U64)


class SpanHasher:
    """The prefix sums of one document, for any number of sets of ranges."""

    def __init__(self, content: bytes) -> None:
        self.bytes = np.frombuffer(content, np.uint8)
        terms = _BYTE_VALUES[self.bytes]
        powers, self._inverse_powers = _powers(len(content).bit_length() + 1)
        terms *= powers[: len(terms)]
        self._prefix = np.zeros(len(content) + 1, U64)
        np.cumsum(terms, out=self._prefix[1:])

    def spans(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
        """(S,) hashes of the byte ranges [start, end); equal bytes give equal hashes at any position."""
        values = self._prefix[ends]
        values -= self._prefix[starts]
        values *= self._inverse_powers[starts]
        return mixed(values)


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """MurmurHash3's 64-bit finaliser, in place."""
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        values ^= values >> U64(shift)
        values *= U64(factor)
    values ^= values >> U64(33)
    return values


@functools.lru_cache(maxsize=32)
def _powers(bits: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(2^bits,) powers of the base p, and of its inverse, modulo 2^64."""
    return _power_table(_BASE, 1 << bits), _power_table(pow(_BASE, -1, 1 << 64), 1 << bits)


def _power_table(base: int, size: int) -> NDArray[np.uint64]:
    table = np.full(size, base, U64)
    table[0] = 1
    return np.cumprod(table, dtype=U64)
