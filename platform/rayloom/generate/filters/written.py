"""Filters that look at one text alone: length, left-overs of forms, what cannot be answered, refusals, language."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rayloom.generate.filters.filter import Candidate, DropReason, Filter
from rayloom.score.rouge_index import rouge_words
from rayloom.specs.cleaning.rules import LanguageRules
from rayloom.specs.generation.filters import DebrisFilter, LengthFilter, RefusalFilter, UnanswerableFilter
from rayloom.text.language import identified

REFUSAL_CHARACTERS = 200
"""A refusal stands at an answer's beginning; behind it, the same words may be quoted."""


class Length(Filter):
    """Words of an instruction, characters of an answer."""

    def __init__(self, spec: LengthFilter, _: Sequence[str]) -> None:
        self._spec = spec

    def of_instruction(self, text: str) -> DropReason | None:
        num_words = len(rouge_words(text))
        if num_words < self._spec.min_words:
            return DropReason("too_few_words", f"{num_words} words")
        return DropReason("too_many_words", f"{num_words} words") if num_words > self._spec.max_words else None

    def of_row(self, row: Candidate) -> DropReason | None:
        size, most = len(row.answer.strip()), self._spec.max_answer_characters
        if size < self._spec.min_answer_characters:
            return DropReason("answer_too_short", f"{size} characters")
        return DropReason("answer_too_long", f"{size} characters") if most is not None and size > most else None


class Debris(Filter):
    """Left-overs of a prompt's or template's form, and answers that were cut off."""

    def __init__(self, spec: DebrisFilter, _: Sequence[str]) -> None:
        self._spec = spec

    def of_instruction(self, text: str) -> DropReason | None:
        found = next((phrase for phrase in self._spec.phrases if phrase in text), None)
        return None if found is None else DropReason("template_debris", found)

    def of_row(self, row: Candidate) -> DropReason | None:
        if row.is_cut and self._spec.drop_cut_off:
            return DropReason("cut_off")
        return self.of_instruction(row.answer) or (self.of_instruction(row.prompt) if row.is_new else None)


class Unanswerable(Filter):
    """Pictures, files and other things that a language model cannot see or do."""

    def __init__(self, spec: UnanswerableFilter, _: Sequence[str]) -> None:
        # An empty list would match everything.
        words = "|".join(re.escape(word) for word in spec.words) or r"(?!)"
        self._words = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)

    def of_instruction(self, text: str) -> DropReason | None:
        found = self._words.search(text)
        return None if found is None else DropReason("unanswerable", found.group())


class Refusals(Filter):
    """Answers that decline to answer."""

    def __init__(self, spec: RefusalFilter, _: Sequence[str]) -> None:
        self._phrases = [phrase.casefold() for phrase in spec.phrases]

    def of_row(self, row: Candidate) -> DropReason | None:
        beginning = row.answer.strip()[:REFUSAL_CHARACTERS].casefold().replace("’", "'")
        found = next((phrase for phrase in self._phrases if phrase in beginning), None)
        return None if found is None else DropReason("refusal", found)


class Language(Filter):
    """The language of an instruction, and of an answer."""

    def __init__(self, spec: LanguageRules, _: Sequence[str]) -> None:
        self._spec = spec

    def of_instruction(self, text: str) -> DropReason | None:
        language, confidence = identified(text, self._spec.sample_characters)
        if self._spec.allowed and language not in self._spec.allowed:
            return DropReason("wrong_language", language)
        return (
            DropReason("unsure_language", f"{language} {confidence:.2f}")
            if confidence < self._spec.min_confidence
            else None
        )

    def of_row(self, row: Candidate) -> DropReason | None:
        return self.of_instruction(row.answer)
