"""Limits on a document's length and on the characters that it is made of."""

from __future__ import annotations

import re

from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.specs.cleaning.rules import CharacterRules, LengthRules

_SPECIAL = re.compile(r"[^\w\s]|_")


def special_share(text: str) -> float:
    """Share of the characters that are neither letters, digits nor white space."""
    return sum(map(len, _SPECIAL.findall(text))) / max(1, len(text))


def judge(examined: ExaminedText, rules: CharacterRules) -> Drop | None:
    share = special_share(examined.text)
    if share > rules.max_special_characters_share:
        return Drop("too_many_special_characters", share)
    return None


def judge_length(examined: ExaminedText, rules: LengthRules) -> Drop | None:
    length = len(examined.text)
    if length < rules.min_characters:
        return Drop("too_few_characters", length)
    if rules.max_characters is not None and length > rules.max_characters and rules.when_longer == "drop":
        return Drop("too_many_characters", length)
    return None


def fitted(text: str, rules: LengthRules) -> list[str]:
    """The text split into pieces of at most the maximum length (usually one piece)."""
    if rules.max_characters is None or len(text) <= rules.max_characters or rules.when_longer == "drop":
        return [text]
    pieces = _pieces(text, rules.max_characters)
    return pieces[:1] if rules.when_longer == "truncate" else pieces


def _pieces(text: str, length: int) -> list[str]:
    """The text in pieces of at most `length` characters, cut before a line if possible, else before a word."""
    pieces, begin = [], 0
    while len(text) - begin > length:
        end = begin + length
        cut = max(text.rfind("\n", begin + 1, end + 1), begin)
        if cut == begin:
            cut = text.rfind(" ", begin + 1, end + 1)
        cut = end if cut <= begin else cut
        pieces.append(text[begin:cut].rstrip())
        begin = cut + len(text[cut:end]) - len(text[cut:end].lstrip())
    return [piece for piece in (*pieces, text[begin:]) if piece]
