"""The form in which documents are compared: case folded, white space collapsed, n-grams of units hashed.

A unit is a word; in scripts without spaces, a character (collapsed spaces too). Words are separated by exactly one
space, so every n-gram is a range of bytes.

Shapes: U units in the document.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

from rayloom.data.views.span_hash import SpanHasher

SPACE = 0x20


class Folded:
    """The folded text, its units, and the hashes of its n-grams."""

    def __init__(self, text: str, is_unspaced: bool) -> None:
        self.content = " ".join(text.casefold().split()).encode()
        self.is_unspaced = is_unspaced

    @cached_property
    def exact_key(self) -> bytes:
        """A hash of 16 bytes, equal for documents that differ only in case and white space."""
        return xxhash.xxh3_128_digest(self.content)

    @cached_property
    def _hasher(self) -> SpanHasher:
        return SpanHasher(self.content)

    @cached_property
    def _bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(U,) start and (U,) end of each unit, in bytes."""
        raw = np.frombuffer(self.content, np.uint8)
        if not len(raw):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        if self.is_unspaced:
            starts = np.flatnonzero(_begins_character(raw))
            return starts, np.append(starts[1:], len(raw))
        spaces = np.flatnonzero(raw == SPACE)
        return np.append(0, spaces + 1), np.append(spaces, len(raw))

    @property
    def num_units(self) -> int:
        return len(self._bounds[0])

    @cached_property
    def unit_characters(self) -> NDArray[np.int64]:
        """(U,) characters in each unit."""
        starts, ends = self._bounds
        if self.is_unspaced:
            return np.ones(len(starts), np.int64)
        if self.content.isascii():
            return ends - starts
        before = np.append(0, np.cumsum(_begins_character(np.frombuffer(self.content, np.uint8))))
        sizes: NDArray[np.int64] = before[ends] - before[starts]
        return sizes

    def units_text(self, first: int, count: int) -> str:
        """The folded text of `count` units from unit `first` on."""
        starts, ends = self._bounds
        return self.content[starts[first] : ends[first + count - 1]].decode()

    def ngrams(self, length: int) -> NDArray[np.uint64]:
        """(U − length + 1,) hashes of all n-grams in order; empty if there are fewer units."""
        starts, ends = self._bounds
        count = len(starts) - length + 1
        if count <= 0:
            return np.zeros(0, np.uint64)
        return self._hasher.spans(starts[:count], ends[length - 1 :])

    def shingles(self, length: int) -> NDArray[np.uint64]:
        """The sorted set of n-gram hashes; for a document shorter than one shingle, the hash of its whole text."""
        found = self.ngrams(length)
        if not len(found) and self.content:
            whole = np.zeros(1, np.int64)
            found = self._hasher.spans(whole, whole + len(self.content))
        return np.unique(found)


def _begins_character(raw: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """For each byte of UTF-8 text, whether it begins a character."""
    begins: NDArray[np.bool_] = (raw & 0xC0) != 0x80
    return begins
