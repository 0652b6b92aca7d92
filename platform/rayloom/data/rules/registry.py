"""The families of rules in the order in which they are applied; judging, `plan`, counts and reports read this list.

To add a family, write a spec in `specs/cleaning/rules.py`, a file in this folder, and a line below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rayloom.data.rules import c4, characters, fineweb, gopher, language, repetition, sensitive
from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.specs.cleaning.rules import Rules


@dataclass(frozen=True)
class RuleFamily:
    """Rules that are turned on and off together."""

    name: str
    """The name of its field in `Rules`; null there turns it off."""
    judge: Callable[[ExaminedText, Any], Drop | None]
    """Takes the text and the field's value; returns why the text is dropped, or None. It may rewrite the text."""
    reasons: str
    """Pattern of the reasons for which it drops texts."""
    notes: str = ""
    """The name of the counts of its notes in the artifact and report; empty if it makes none."""


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
"""Judges a document before it is split into pieces, which the other families judge; it cannot be turned off."""


def active(rules: Rules) -> Iterator[tuple[RuleFamily, Any]]:
    """The families that are turned on, each with its settings."""
    for family in (LENGTH, *RULES):
        if (settings := getattr(rules, family.name)) is not None:
            yield family, settings


def verdict(text: ExaminedText, family: RuleFamily, settings: Any) -> Drop | None:
    """Why the family drops the text, with the family's name; None if it does not."""
    drop = family.judge(text, settings)
    return None if drop is None else replace(drop, rule=family.name)


def family_of(reason: str) -> str:
    """The name of the family that drops for this reason; empty if no rule does (duplicates, mixing)."""
    return next((family.name for family in (LENGTH, *RULES) if re.fullmatch(family.reasons, reason)), "")
