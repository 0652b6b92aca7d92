"""Augmented copies of training rows; each names its original row and the method.

Synonyms and deletion: Wei & Zou 2019, EDA (arXiv:1901.11196). Back-translation: Sennrich, Haddow & Birch 2016
(arXiv:1511.06709), through an endpoint (`rayloom.data.labelled.augmentation`). Random choices are seeded by a hash
of the document and the copy's number, so the same job makes the same rows, except for an endpoint's answers.
"""

from __future__ import annotations

import json
import os
import random
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ahocorasick

from rayloom.artifacts.files import matching_files
from rayloom.data.rules.sensitive import is_whole_word
from rayloom.errors import InputError, ResourceError
from rayloom.specs.cleaning.augmentation import (
    Augmentation,
    BackTranslation,
    RandomDeletion,
    SentenceShuffle,
    SynonymReplacement,
)
from rayloom.text.text_views import is_unspaced

_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s*(?=\S)")

Change = Callable[[str, random.Random], str]


class Synonyms:
    """Groups of words that can replace each other."""

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        others: dict[str, list[str]] = {}
        for group in groups:
            for word in group:
                others.setdefault(word.casefold(), []).extend(other for other in group if other != word)
        self._others: Mapping[str, list[str]] = others
        self._automaton = ahocorasick.Automaton()
        for word in others:
            self._automaton.add_word(word, len(word))
        self._automaton.make_automaton()

    def replaced(self, text: str, share: float, dice: random.Random) -> str:
        """The text with about `share` of its listed words replaced, at least one if it has any."""
        spans = list(self._listed_spans(text))
        count = max(1, round(share * len(spans))) if spans else 0
        for begin, end in sorted(dice.sample(spans, count), reverse=True):
            word = text[begin:end]
            other = dice.choice(self._others[word.casefold()])
            text = text[:begin] + (other[:1].upper() + other[1:] if word[:1].isupper() else other) + text[end:]
        return text

    def _listed_spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Begin and end of listed words in the text, without overlaps; of words that begin together, the longest."""
        folded = text.casefold()
        if len(folded) != len(text):  # case folding changed the length (Turkish dotted I): offsets would be wrong
            return
        spans = [(last - length + 1, last + 1) for last, length in self._automaton.iter(folded)]
        reached = 0
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            if begin >= reached and is_whole_word(folded, begin, end):
                yield begin, end
                reached = end


def read_synonyms(folder: Path) -> Synonyms:
    """Groups of words from text files, one a line, words separated by commas. Raises InputError if there are none."""
    groups = []
    for file in matching_files(folder):
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise InputError("A list of synonyms is not text in UTF-8", where=str(file), fix="Save it so.") from None
        for line in lines:
            words = [word.strip() for word in line.split(",") if word.strip()]
            if len(words) > 1 and not line.startswith("#"):
                groups.append(words)
    if not groups:
        fix = "Write one group a line, words set apart by commas: large, big, sizeable."
        raise InputError("The list of synonyms has no group", where=str(folder), fix=fix)
    return Synonyms(groups)


def shuffled_sentences(text: str, dice: random.Random) -> str:
    """The sentences in another order; line ends between them become spaces."""
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(text)]
    dice.shuffle(sentences)
    return ("" if is_unspaced(text) else " ").join(sentences)


def without_words(text: str, share: float, dice: random.Random) -> str:
    """The text with about `share` of its words deleted, at least one; in scripts without spaces, characters."""
    unspaced = is_unspaced(text)
    units = list(text) if unspaced else text.split(" ")
    count = min(max(1, round(share * len(units))), len(units) - 1)
    deleted = set(dice.sample(range(len(units)), count)) if count > 0 else set()
    return ("" if unspaced else " ").join(unit for index, unit in enumerate(units) if index not in deleted)


class Augmenter:
    """The augmentation methods of a job; each copy of a row is made by one of them."""

    def __init__(self, spec: Augmentation, synonym_folders: Mapping[int, Path]) -> None:

        self.spec = spec
        self._changes: list[Change] = []
        for number, method in enumerate(spec.methods):
            if isinstance(method, SynonymReplacement):
                listed, share = read_synonyms(synonym_folders[number]), method.share
                self._changes.append(lambda text, dice, w=listed, s=share: w.replaced(text, s, dice))  # type: ignore[misc]
            elif isinstance(method, SentenceShuffle):
                self._changes.append(shuffled_sentences)
            elif isinstance(method, RandomDeletion):
                self._changes.append(lambda text, dice, s=method.share: without_words(text, s, dice))  # type: ignore[misc]
            else:
                assert isinstance(method, BackTranslation)
                translator = Translator(method)
                self._changes.append(lambda text, _, t=translator: t.there_and_back(text))  # type: ignore[misc]

    def wants(self, label: str) -> bool:
        return not self.spec.labels or label in self.spec.labels

    def copies(self, text: str, split_hash: int) -> Iterator[tuple[str, str]]:
        """Each new text and its method; without texts that differ from the row in case and white space only."""
        seen = {" ".join(text.casefold().split())}
        for number in range(self.spec.copies_per_row):
            index = number % len(self._changes)
            dice = random.Random(f"{self.spec.seed} {split_hash} {number}")
            made = self._changes[index](text, dice).strip()
            folded = " ".join(made.casefold().split())
            if folded and folded not in seen:
                seen.add(folded)
                yield made, self.spec.methods[index].type


# Texts translated into another language and back by a chat model behind an OpenAI-compatible endpoint.

TIMEOUT_SECONDS = 300


class Translator:
    """A client of one endpoint that translates text by text."""

    def __init__(self, spec: BackTranslation) -> None:
        self.spec = spec
        self._url = f"{spec.url.rstrip('/')}/chat/completions"
        self._headers = {"Content-Type": "application/json"}
        if spec.api_key_variable is not None:
            key = os.environ.get(spec.api_key_variable)
            if not key:
                fix = f"Set {spec.api_key_variable} where the job runs (on every node)."
                raise InputError("The key of the translation endpoint is missing", where=self._url, fix=fix)
            self._headers["Authorization"] = f"Bearer {key}"

    def there_and_back(self, text: str) -> str:
        """The text translated into the other language and back."""
        return self._translated(self._translated(text, self.spec.through), self.spec.language)

    def _translated(self, text: str, language: str) -> str:
        prompt = f"Translate into {language}. Answer with the translation alone.\n\n{text}"
        body = {
            "model": self.spec.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.spec.max_new_tokens,
        }
        answer = self._asked(json.dumps(body).encode())
        try:
            return str(answer["choices"][0]["message"]["content"] or "").strip()
        except (KeyError, IndexError, TypeError):
            what = f"The translation endpoint answered without a choice: {json.dumps(answer)[:200]}"
            raise InputError(what, where=self._url, fix="Name an OpenAI-compatible chat endpoint.") from None

    def _asked(self, body: bytes) -> Any:
        request = urllib.request.Request(self._url, body, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            reply = error.read(400).decode("utf-8", "replace")
            fix = "Check url, model and api_key_variable of the augmentation."
            raise InputError(f"The endpoint refused ({error.code}): {reply}", where=self._url, fix=fix) from None
        except (OSError, ValueError) as error:
            fix = "Start it, or leave back_translation out; running again goes on with the rows that are left."
            raise ResourceError(f"The endpoint does not answer: {error}", where=self._url, fix=fix) from None
