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
    for words, limit in sorted(rules.max_top_ngram_characters_share.items()):
        share = top_ngram_share(folded, _units(folded, words))
        if share > limit:
            return Drop(f"repeats_one_{words}_gram", share)
    return None


def _duplicate_ngrams(folded: Folded, rules: RepetitionRules) -> Drop | None:
    for words, limit in sorted(rules.max_duplicate_ngram_characters_share.items()):
        share = duplicate_ngram_share(folded, _units(folded, words))
        if share > limit:
            return Drop(f"repeats_{words}_grams", share)
        if not share:
            break  # if no n-gram occurs twice, no longer one does
    return None


def _units(folded: Folded, words: int) -> int:
    return round(words * CHARACTERS_PER_WORD) if folded.is_unspaced else words


def top_ngram_share(folded: Folded, length: int) -> float:
    """Share of the characters in the most frequent n-gram (of equally frequent ones, the longest); 0 if none occurs
    twice."""
    hashes = folded.ngrams(length)
    if len(hashes) < 2:
        return 0.0
    ordered = np.sort(hashes)
    edges = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    counts = np.diff(np.append(edges, len(ordered)))
    most = int(counts.max())
    if most == 1:
        return 0.0
    shares = [covered_share(folded, hashes == value, length) for value in ordered[edges[counts == most]][:16]]
    return max(shares)


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
