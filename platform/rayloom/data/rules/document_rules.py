"""All rules of a domain in one function: a raw text in, what is kept of it or why it goes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayloom.data.rules import c4, characters, fineweb, gopher, repetition, sensitive
from rayloom.data.rules import language as language_of
from rayloom.data.rules.contamination import Passages
from rayloom.data.rules.normalise import normaliser
from rayloom.data.rules.verdict import Drop
from rayloom.data.views.comparison_form import Folded
from rayloom.data.views.document_view import TextView
from rayloom.specs.clean import Normalisation
from rayloom.specs.cleaning.rules import Rules


@dataclass(frozen=True)
class Kept:
    """A text that passed, and its folded form for comparing it with others."""

    text: str
    folded: Folded
    was_shortened: bool
    """It is a piece of a longer document, or the beginning of one."""
    language: str = ""
    """ISO 639 code; empty where nobody asked."""
    masked: Counter[str] = field(default_factory=Counter)
    """How often each kind of personal data was masked."""


Judgement = Kept | Drop
Judge = Callable[[str], list[Judgement]]
"""From a raw text to one judgement, or to one for each piece that it was split into."""


def judge_of(
    normalisation: Normalisation, rules: Rules, words: Sequence[str] = (), passages: Passages | None = None
) -> Judge:
    """The function that normalises and judges one document of a domain.

    `words`: listed words out of files, beside those of the rules. `passages`: what no document may hold.
    """
    normalise = normaliser(normalisation)
    listed = (*(rules.sensitive.words if rules.sensitive else ()), *words)
    listed_words = sensitive.WordList(listed) if listed else None

    def judge(raw: str) -> list[Judgement]:
        text = normalise(raw)
        pieces = characters.fitted(text, rules.length)
        if isinstance(pieces, Drop):
            return [pieces]
        shortened = len(pieces[0]) < len(text)
        return [_uncontaminated(_judged(piece, rules, listed_words, shortened), passages) for piece in pieces]

    return judge


def _uncontaminated(judgement: Judgement, passages: Passages | None) -> Judgement:
    if passages is None or isinstance(judgement, Drop):
        return judgement
    hits = passages.hits(judgement.text)
    return Drop("contaminated", len(hits), tuple(hits)) if hits else judgement


def cleaner_of(normalisation: Normalisation, rules: Rules) -> Callable[[Any], Any]:
    """The function that normalises and masks every text in a kept column, however deep it lies."""
    normalise = normaliser(normalisation)

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            text = normalise(value)
            return sensitive.masked(text, rules.sensitive) if rules.sensitive else text
        if isinstance(value, list):
            return [clean(item) for item in value]
        if isinstance(value, dict):
            return {name: clean(item) for name, item in value.items()}
        return value

    return clean


def _judged(text: str, rules: Rules, words: sensitive.WordList | None, shortened: bool) -> Judgement:
    if not text:
        return Drop("empty", 0)
    view = TextView(text)
    special = characters.judge(view, rules.characters) if rules.characters else None
    if special:
        return special
    language: str | Drop = language_of.judge(text, rules.language) if rules.language else ""
    if isinstance(language, Drop):
        return language
    cleaned = sensitive.judge(text, rules.sensitive, words) if rules.sensitive else (text, Counter[str]())
    if isinstance(cleaned, Drop):
        return cleaned
    view, masked = view if cleaned[0] == text else TextView(cleaned[0]), cleaned[1]
    if rules.c4:
        left = c4.judge(view.text, rules.c4)
        if isinstance(left, Drop):
            return left
        view = view if left == view.text else TextView(left)
    folded = Folded(view.text, view.is_unspaced)
    drop: Drop | None = (
        (gopher.judge(view, rules.gopher) if rules.gopher else None)
        or (repetition.judge(view, folded, rules.repetition) if rules.repetition else None)
        or (fineweb.judge(view, rules.fineweb) if rules.fineweb else None)
    )
    return drop or Kept(view.text, folded, shortened, language, masked)
