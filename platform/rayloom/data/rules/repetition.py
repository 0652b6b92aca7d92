"""Gopher's repetition filters (Rae et al. 2021, arXiv:2112.11446, table A1).

Lines and paragraphs are compared exactly, n-grams of words ignoring case. In scripts without spaces, 1.6 characters
count as a word: the mean length of a Chinese word in running text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.specs.cleaning.rules import RepetitionRules
from rayloom.text.text_views import Folded, TextView

CHARACTERS_PER_WORD = 1.6


def judge(examined: ExaminedText, rules: RepetitionRules) -> Drop | None:
    """The first limit that the document exceeds."""
    folded = examined.folded
    return _pieces(examined.view, rules) or _top_ngrams(folded, rules) or _duplicate_ngrams(folded, rules)


def _pieces(view: TextView, rules: RepetitionRules) -> Drop | None:
    for pieces, name, max_share, max_characters in (
        (view.lines, "line", rules.max_duplicate_lines_share, rules.max_duplicate_line_characters_share),
        (
            view.paragraphs,
            "paragraph",
            rules.max_duplicate_paragraphs_share,
            rules.max_duplicate_paragraph_characters_share,
        ),
    ):
        share, characters = duplicate_shares(pieces, len(view.text))
        if max_share is not None and share > max_share:
            return Drop(f"too_many_duplicate_{name}s", share)
        if max_characters is not None and characters > max_characters:
            return Drop(f"too_many_duplicate_{name}_characters", characters)
    return None


def duplicate_shares(pieces: Sequence[str], num_characters: int) -> tuple[float, float]:
    """Share of the pieces that repeat an earlier one, and share of the text's characters in them."""
    if len(pieces) < 2 or len(different := set(pieces)) == len(pieces):
        return 0.0, 0.0
    repeated_characters = sum(map(len, pieces)) - sum(map(len, different))
    return 1 - len(different) / len(pieces), repeated_characters / max(1, num_characters)


def _top_ngrams(folded: Folded, rules: RepetitionRules) -> Drop | None:
    most, characters = folded.num_units, max(1, folded.num_characters)
    for words, limit in sorted(rules.max_top_ngram_characters_share.items()):
        length = _units(folded, words)
        # No longer n-gram is more frequent than its beginning: most prose is decided by its 2-grams.
        longest = folded.longest_ngram_characters(length)
        if most * longest / characters <= limit:
            continue
        values, most = most_frequent(folded.ngrams(length))
        if most * longest / characters <= limit:
            continue
        share = top_ngram_share(folded, length, values)
        if share > limit:
            return Drop(f"repeats_one_{words}_gram", share)
    return None


def _duplicate_ngrams(folded: Folded, rules: RepetitionRules) -> Drop | None:
    limits = sorted(rules.max_duplicate_ngram_characters_share.items())
    for place, (words, limit) in enumerate(limits):
        share = duplicate_ngram_share(folded, _units(folded, words))
        if share > limit:
            return Drop(f"repeats_{words}_grams", share)
        if all(share <= later for _, later in limits[place + 1 :]):
            break  # longer n-grams that occur twice are made of these
    return None


def _units(folded: Folded, words: int) -> int:
    return round(words * CHARACTERS_PER_WORD) if folded.is_unspaced else words


def most_frequent(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], int]:
    """The hashes that occur most often, and how often; none and 1 if none occurs twice."""
    ordered = np.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return repeated, 1
    begins = np.flatnonzero(repeated[1:] != repeated[:-1])
    edges = np.concatenate(([0], begins + 1, [len(repeated)]))
    counts = np.diff(edges)
    most = int(counts.max())
    return repeated[edges[:-1][counts == most]], most + 1


def top_ngram_share(folded: Folded, length: int, values: NDArray[np.uint64]) -> float:
    """Share of the characters in the most frequent n-gram (of equally frequent ones, the longest); 0 if none occurs
    twice. `values`: the hashes of the most frequent."""
    hashes = folded.ngrams(length)
    return max((covered_share(folded, hashes == value, length) for value in values[:16]), default=0.0)


def duplicate_ngram_share(folded: Folded, length: int) -> float:
    """Share of the characters in n-grams that occur more than once, each character counted once."""
    hashes = folded.ngrams(length)
    ordered = np.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return 0.0
    indices = np.minimum(np.searchsorted(repeated, hashes), len(repeated) - 1)
    return covered_share(folded, repeated[indices] == hashes, length)


def covered_share(folded: Folded, begins: NDArray[np.bool_], length: int) -> float:
    """Share of the characters in the n-grams that begin at the units for which `begins` is true."""
    steps = np.zeros(folded.num_units + 1, np.int64)
    indices = np.flatnonzero(begins)
    np.add.at(steps, indices, 1)
    np.add.at(steps, indices + length, -1)
    covered = np.cumsum(steps[:-1]) > 0
    characters = folded.unit_characters
    return float(characters[covered].sum() / characters.sum())
