"""The most similar text among many by ROUGE-L, exactly, in milliseconds among a hundred thousand.

ROUGE-L (Lin 2004) of two texts of m and n words whose longest common subsequence has L words is 2L / (m + n). Only
texts that can reach the threshold are compared. L is at most the number of words that both have, of which there must be
at least t; so it is enough to look up the m − t + 1 rarest words (prefix filtering: Bayardo et al. 2007). What is left
is compared all at once, with the words of the text as the bits of a machine word (Hyyrö 2004).

Shapes: N texts in the index, C of them compared, W words in the longest of these.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")
_BITS = 64


def rouge_words(text: str) -> list[str]:
    """The words that are compared, in lower case: runs of letters and digits; in scripts without spaces, characters."""
    return _WORD.findall(text.lower())


class Similar(NamedTuple):
    """A text of the index, by the order in which it was added, and its ROUGE-L."""

    number: int
    rouge_l: float


class RougeIndex:
    """Texts to which others are compared. `threshold`: smallest ROUGE-L that counts, above 0."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._ids: dict[str, int] = {}
        self._postings: dict[tuple[int, int], array[int]] = {}
        """By word and how often it stood before in its text: so a set of these is a multiset of words."""
        self._words = array("I")
        self._starts = array("q", [0])
        self._masks = np.zeros(1024, np.uint64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, text: str) -> None:
        ids = [self._ids.setdefault(word, len(self._ids)) for word in rouge_words(text)]
        for key in _counted(ids):
            self._postings.setdefault(key, array("I")).append(len(self))
        self._words.extend(ids)
        self._starts.append(len(self._words))

    def most_similar(self, text: str) -> Similar | None:
        """The most similar text, of equally similar ones the first; None if none reaches the threshold."""
        words = rouge_words(text)
        # A word that no text has still counts for the length, and as a number it must not be another's.
        ids = [self._ids.get(word, -1 - place) for place, word in enumerate(words)]
        numbers = self._candidates(ids)
        if not len(numbers):
            return None
        starts = np.frombuffer(self._starts, np.int64)
        lengths = starts[numbers + 1] - starts[numbers]
        common = self._common(ids, starts[numbers], lengths)
        rouge = 2 * common / (len(ids) + lengths)
        best = int(rouge.argmax())
        return Similar(int(numbers[best]), float(rouge[best])) if rouge[best] >= self._threshold else None

    def _candidates(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """(C,) the texts that can reach the threshold, by their lengths and the words that both have."""
        if not ids or not len(self):
            return np.zeros(0, np.int64)
        # 2L ≥ θ(m + n) and n ≥ L give L ≥ θm / (2 − θ), whatever n is.
        least_common = max(1, math.ceil(self._threshold * len(ids) / (2 - self._threshold) - 1e-9))
        found = sorted((self._postings.get(key, array("I")) for key in _counted(ids)), key=len)
        num_looked_up = len(ids) - least_common + 1
        looked_up = np.concatenate([np.frombuffer(one, np.uint32) for one in found[:num_looked_up]])
        if not len(looked_up):
            return np.zeros(0, np.int64)
        counts = np.bincount(looked_up, minlength=len(self))
        numbers = np.flatnonzero(counts)
        starts = np.frombuffer(self._starts, np.int64)
        lengths = starts[numbers + 1] - starts[numbers]
        at_most = np.minimum(counts[numbers] + len(ids) - num_looked_up, np.minimum(lengths, len(ids)))
        close: NDArray[np.int64] = numbers[2 * at_most >= self._threshold * (len(ids) + lengths) - 1e-9]
        return close

    def _common(self, ids: Sequence[int], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """(C,) the length of the longest common subsequence with each candidate."""
        words = np.frombuffer(self._words, np.uint32)
        if len(ids) > _BITS:
            pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
            return np.array([longest_common(ids, words[at : at + size].tolist()) for at, size in pairs], np.int64)
        if len(self._masks) < len(self._ids):
            self._masks = np.zeros(2 * len(self._ids), np.uint64)
        known = sorted({word for word in ids if word >= 0})
        for place, word in enumerate(ids):
            if word >= 0:
                self._masks[word] |= np.uint64(1 << place)
        # In columns, so that the words of all candidates at one place lie side by side; behind a text's end, no word.
        places = np.arange(lengths.max())[:, None]
        masks = self._masks[words[np.minimum(starts + places, len(words) - 1)]]
        masks[places >= lengths] = 0
        self._masks[known] = 0
        free = np.full(len(starts), ~np.uint64(0))
        for row in masks:
            taken = free & row
            free = (free + taken) | (free - taken)
        counts: NDArray[np.int64] = np.bitwise_count(~free).astype(np.int64)
        return counts


def longest_common(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the longest common subsequence, with a Python integer as the machine word."""
    masks: dict[int, int] = {}
    for place, word in enumerate(first):
        masks[word] = masks.get(word, 0) | 1 << place
    everything = (1 << len(first)) - 1
    free = everything
    for word in second:
        taken = free & masks.get(word, 0)
        free = ((free + taken) | (free - taken)) & everything
    return len(first) - free.bit_count()


def _counted(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Each word with how often it stood before."""
    seen: Counter[int] = Counter()
    keys = []
    for word in ids:
        keys.append((word, seen[word]))
        seen[word] += 1
    return keys
