"""Every family of rules, in the order in which they judge: the one list that judging, `plan`, counts and reports read.

A new family is a spec in `specs/cleaning/rules.py`, a file beside this one, and a line below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rayloom.data.rules import c4, characters, fineweb, gopher, language, repetition, sensitive
from rayloom.data.rules.examined_text import ExaminedText
from rayloom.data.rules.verdict import Drop
from rayloom.specs.cleaning.rules import Rules


@dataclass(frozen=True)
class RuleFamily:
    """Rules that are turned on and off together."""

    name: str
    """Of their field in `Rules`, where null turns them off."""
    judge: Callable[[ExaminedText, Any], Drop | None]
    """From a text and the field's value to why the text goes; it may rewrite the text."""
    reasons: str
    """What its drops are called, as a pattern."""
    notes: str = ""
    """What the notes that it makes are counted as, in the artifact's numbers and in its report."""


RULES: tuple[RuleFamily, ...] = (
    RuleFamily("characters", characters.judge, "too_many_special_characters"),
    RuleFamily("language", language.judge, "wrong_language|unsure_language", notes="languages"),
    RuleFamily("sensitive", sensitive.judge, f"listed_words|has_(?:{'|'.join(sensitive.KINDS)})", notes="masked"),
    RuleFamily("c4", c4.judge, "lorem_ipsum|curly_bracket|too_few_sentences"),
    RuleFamily(
        "gopher",
        gopher.judge,
        "too_(?:few|many)_words|words_too_(?:short|long)|too_many_(?:hashes|ellipses|bullet_lines|ellipsis_lines)"
        "|too_few_(?:alphabetic|stop)_words",
    ),
    RuleFamily(
        "repetition",
        repetition.judge,
        r"too_many_duplicate_(?:line|paragraph)(?:s|_characters)|repeats_one_\d+_gram|repeats_\d+_grams",
    ),
    RuleFamily("fineweb", fineweb.judge, "too_few_ended_lines|too_many_(?:short_lines|repeated_line_characters|lines)"),
)
LENGTH = RuleFamily("length", characters.judge_length, "too_(?:few|many)_characters")
"""Judges a document before it is split into the pieces that the others judge; it cannot be turned off."""


def active(rules: Rules) -> Iterator[tuple[RuleFamily, Any]]:
    """The families that are on, each with its settings."""
    for family in (LENGTH, *RULES):
        if (settings := getattr(rules, family.name)) is not None:
            yield family, settings


def verdict(text: ExaminedText, family: RuleFamily, settings: Any) -> Drop | None:
    """Why the family drops the text, with the family's name."""
    drop = family.judge(text, settings)
    return None if drop is None else replace(drop, rule=family.name)


def family_of(reason: str) -> str:
    """The name of the family that drops for this reason; nothing where no rule does (duplicates, mixing)."""
    return next((family.name for family in (LENGTH, *RULES) if re.fullmatch(family.reasons, reason)), "")
