"""The rule about a text's language."""

from __future__ import annotations

from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.specs.cleaning.rules import LanguageRules
from rayloom.text.language import identified


def judge(examined: ExaminedText, rules: LanguageRules) -> Drop | None:
    """Notes the text's language as ISO 639 code, or returns why the text is dropped."""
    language, confidence = identified(examined.text, rules.sample_characters)
    if rules.allowed and language not in rules.allowed:
        return Drop("wrong_language", confidence)
    if confidence < rules.min_confidence:
        return Drop("unsure_language", confidence)
    examined.note("languages", language)
    return None
