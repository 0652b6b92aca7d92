"""Gopher's quality filters (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1)."""

from __future__ import annotations

from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.specs.cleaning.rules import GopherRules
from rayloom.text.text_views import TextView

BULLETS = ("•", "‣", "▪", "▫", "●", "○", "■", "□", "▶", "►", "◆", "◇", "◦", "-", "–", "*", "\u2043", "\u2219")
ELLIPSES = ("...", "…")
_EDGES = "\"'()[]{}<>.,;:!?–—-_*“”‘’«»…"


def judge(examined: ExaminedText, rules: GopherRules) -> Drop | None:
    """The first rule that the document breaks, in the paper's order."""
    view = examined.view
    return _words(view, rules) or _symbols(view, rules) or _lines(view, rules) or _language(view, rules)


def _words(view: TextView, rules: GopherRules) -> Drop | None:
    count = len(view.words)
    if count < rules.min_words:
        return Drop("too_few_words", count)
    if count > rules.max_words:
        return Drop("too_many_words", count)
    if not view.is_unspaced and count:
        mean = sum(map(len, view.words)) / count
        if mean < rules.min_mean_word_characters:
            return Drop("words_too_short", mean)
        if mean > rules.max_mean_word_characters:
            return Drop("words_too_long", mean)
    return None


def _symbols(view: TextView, rules: GopherRules) -> Drop | None:
    count = max(1, len(view.words))
    hashes = view.text.count("#") / count
    if hashes > rules.max_symbols_per_word:
        return Drop("too_many_hashes", hashes)
    ellipses = sum(view.text.count(mark) for mark in ELLIPSES) / count
    if ellipses > rules.max_symbols_per_word:
        return Drop("too_many_ellipses", ellipses)
    return None


def _lines(view: TextView, rules: GopherRules) -> Drop | None:
    count = max(1, len(view.lines))
    bullets = sum(line.startswith(BULLETS) for line in view.lines) / count
    if bullets > rules.max_bullet_lines_share:
        return Drop("too_many_bullet_lines", bullets)
    ellipses = sum(line.endswith(ELLIPSES) for line in view.lines) / count
    if ellipses > rules.max_ellipsis_lines_share:
        return Drop("too_many_ellipsis_lines", ellipses)
    return None


def _language(view: TextView, rules: GopherRules) -> Drop | None:
    min_alphabetic_words = rules.min_alphabetic_words_share * len(view.words)
    # Words of letters only are fast to count, and usually enough in prose.
    if (
        sum(map(str.isalpha, view.words)) < min_alphabetic_words
        and (count := sum(map(_has_letter, view.words))) < min_alphabetic_words
    ):
        return Drop("too_few_alphabetic_words", count / len(view.words))
    count = num_stop_words(view, rules)
    return Drop("too_few_stop_words", count) if count < rules.min_stop_words else None


def _has_letter(word: str) -> bool:
    return word.isalpha() or any(map(str.isalpha, word))


def num_stop_words(view: TextView, rules: GopherRules) -> int:
    """Number of different stop words in the text, ignoring case and punctuation at the ends of words."""
    if view.is_unspaced:
        return sum(character in view.text for character in rules.stop_characters)
    stop_words = set(rules.stop_words)
    occurring = stop_words.intersection(view.words)
    if len(occurring) < rules.min_stop_words:
        occurring = stop_words.intersection(word.strip(_EDGES).casefold() for word in view.words)
    return len(occurring)
