"""Views of a text: the folded form for comparisons, hashes of its byte ranges, and the words and lines for rules.

The folded form has its case folded and white space collapsed; n-grams of its units are hashed.

A unit is a word; in scripts without spaces, a character (collapsed spaces too). Words are separated by exactly one
space, so every n-gram is a range of bytes.

Shapes: U units in the document.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

SPACE = 0x20


class Folded:
    """The folded text, its units, and the hashes of its n-grams."""

    def __init__(self, text: str, is_unspaced: bool, words: Sequence[str] | None = None) -> None:
        """`words`: those between white space, if they are known."""
        self.content = " ".join(text.split() if words is None else words).casefold().encode()
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
        starts, ends = np.zeros(len(spaces) + 1, np.int64), np.empty(len(spaces) + 1, np.int64)
        np.add(spaces, 1, out=starts[1:])
        ends[:-1], ends[-1] = spaces, len(raw)
        return starts, ends

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

    @property
    def num_characters(self) -> int:
        """Of all units."""
        return int(self._characters_before[-1])

    def longest_ngram_characters(self, length: int) -> int:
        """Characters of the longest n-gram; 0 if there are fewer units."""
        before = self._characters_before
        return int((before[length:] - before[:-length]).max()) if len(before) > length else 0

    @cached_property
    def _characters_before(self) -> NDArray[np.int64]:
        """(U + 1,) characters in the units before each."""
        sums = np.zeros(self.num_units + 1, np.int64)
        np.cumsum(self.unit_characters, out=sums[1:])
        return sums

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
        hashes = self.ngrams(length)
        if not len(hashes) and self.content:
            whole = np.zeros(1, np.int64)
            hashes = self._hasher.spans(whole, whole + len(self.content))
        # np.unique finds the different values of a hash table first, which takes five times as long for one document.
        ordered = np.sort(hashes)
        is_first = np.ones(len(ordered), np.bool_)
        np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
        return ordered[is_first]


def _begins_character(raw: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """For each byte of UTF-8 text, whether it begins a character."""
    begins: NDArray[np.bool_] = (raw & 0xC0) != 0x80
    return begins


# Hashes of many overlapping byte ranges of one document in a few array operations.
#
# The polynomial hash of any range is a difference of prefix sums of b[j] · p^j modulo 2^64, times p^-start. So each
# word shingle or n-gram costs a few operations, whatever its length. MurmurHash3's finaliser then mixes the bits,
# because the low bits of a polynomial modulo 2^64 are weak.
#
# Shapes: S ranges.

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


# The words, lines and paragraphs of one document, for the rules; each is computed once, when first used.

# Scripts that put no spaces between words: Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar.
UNSPACED = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
UNSPACED_SHARE = 0.2
"""A document with this share of such characters counts as text without spaces; mixed Chinese pages have over 0.4."""

_UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")
_UNSPACED_WORD = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}]+")


def is_unspaced(text: str) -> bool:
    """Whether the text is in a script without spaces between words, such as Chinese or Japanese."""
    if text.isascii() or not text:
        return False
    return sum(1 for _ in _UNSPACED_CHARACTER.finditer(text)) >= UNSPACED_SHARE * len(text)


class TextView:
    """A normalised text and the units that rules count in it."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def is_unspaced(self) -> bool:
        return is_unspaced(self.text)

    @cached_property
    def words(self) -> list[str]:
        """The words between white space; in scripts without spaces, each character is a word."""
        return _UNSPACED_WORD.findall(self.text) if self.is_unspaced else self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not empty."""
        return [line for line in self.text.split("\n") if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [paragraph for paragraph in self.text.split("\n\n") if paragraph]
