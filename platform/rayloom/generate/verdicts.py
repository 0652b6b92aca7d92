"""What a judge said: the better of two answers, or a number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

PairVerdict = Literal["first", "second", "tie", "undecided", "no_verdict"]

_MARKED = re.compile(r"\[\[([ABC])\]\]")
_LETTER = re.compile(r"\b([ABC])\b")
_NUMBER = re.compile(r"(?<![\d.,])-?\d+(?![.,]?\d)")


def letter_of(said: str) -> str | None:
    """A, B, or C for a tie: the last that is marked as [[A]], else the only one that is named; else None."""
    found = _MARKED.findall(said) or sorted(set(_LETTER.findall(said)))
    return found[-1] if found and (len(found) == 1 or _MARKED.search(said)) else None


def verdict_of(both: Sequence[str | None]) -> PairVerdict:
    """What the letters of both orders mean together. A win is one that does not hang on the order."""
    if None in both:
        return "no_verdict"
    known: dict[tuple[str | None, ...], PairVerdict] = {("A", "B"): "first", ("B", "A"): "second", ("C", "C"): "tie"}
    return known.get(tuple(both), "undecided")


def points_of(said: str, lowest: int, highest: int) -> int | None:
    """The last whole number of a reply, if it is on the scale. 8/10 and "8 out of 10" are an eight."""
    found = _NUMBER.findall(re.sub(rf"(?<=\d)(?:\s?/\s?|\s+(?:out\s+)?of\s+){highest}\b", "", said))
    number = int(found[-1]) if found and len(found[-1]) < 10 else None
    return number if number is not None and lowest <= number <= highest else None
