"""All rules of a domain as one function, from a raw text to what is kept of it or why it is dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayloom.data.rules import characters, sensitive
from rayloom.data.rules.contamination import Passages
from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.data.rules.normalise import normaliser
from rayloom.data.rules.registry import LENGTH, RuleFamily, active, verdict
from rayloom.specs.clean import Normalisation
from rayloom.specs.cleaning.rules import Rules
from rayloom.text.text_views import Folded


@dataclass(frozen=True)
class Kept:
    """A text that passed the rules, and its folded form for comparison with others."""

    text: str
    folded: Folded
    was_shortened: bool
    """Whether it is a piece of a longer document, or a truncated one."""
    notes: Counter[str] = field(default_factory=Counter)
    """Counts that rules noted, by `kind/value`: masked personal data by kind, the language."""


Judgement = Kept | Drop
Judge = Callable[[str], list[Judgement]]
"""Takes a raw text; returns one judgement for each piece that it was split into, usually one."""


def judge_of(
    normalisation: Normalisation, rules: Rules, words: Sequence[str] = (), passages: Passages | None = None
) -> Judge:
    """The function that normalises and judges one document of a domain.

    `words`: listed words from files, in addition to those of the rules. `passages`: passages of evaluation sets.
    """
    normalise = normaliser(normalisation)
    (_, length), *families = active(rules)

    def judge(raw: str) -> list[Judgement]:
        text = normalise(raw)
        drop = verdict(ExaminedText(text), LENGTH, length)
        if drop is not None:
            return [drop]
        pieces = characters.fitted(text, length)
        shortened = len(pieces[0]) < len(text)
        return [_uncontaminated(_judged(piece, families, words, shortened), passages) for piece in pieces]

    return judge


def _uncontaminated(judgement: Judgement, passages: Passages | None) -> Judgement:
    if passages is None or isinstance(judgement, Drop):
        return judgement
    hits = passages.hits(judgement.text)
    return Drop("contaminated", len(hits), hits=tuple(hits)) if hits else judgement


def cleaner_of(normalisation: Normalisation, rules: Rules) -> Callable[[Any], Any]:
    """The function that normalises and masks every text in the value of a kept column, nested ones too."""
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


def _judged(text: str, families: Sequence[tuple[RuleFamily, Any]], words: Sequence[str], shortened: bool) -> Judgement:
    examined = ExaminedText(text, words)
    for family, settings in families:
        drop = verdict(examined, family, settings)
        if drop is not None:
            return drop
    return Kept(examined.text, examined.folded, shortened, examined.notes)
