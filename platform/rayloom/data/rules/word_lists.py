"""Listed words from the files that the rules name; a document may have only a limited number of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rayloom.artifacts.files import matching_files
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.rules import Rules


def listed_words(spec: CleanSpec, parents: Mapping[str, Artifact]) -> dict[str, tuple[str, ...]]:
    """The words from files for each domain."""
    found = {}
    for source in spec.sources:
        own = source.domain in spec.domain_rules
        path = f"domain_rules.{source.domain}" if own else "rules"
        found[source.domain] = tuple(dict.fromkeys(_words(spec.rules_of(source.domain), path, parents)))
    return found


def _words(rules: Rules, path: str, parents: Mapping[str, Artifact]) -> Iterator[str]:
    if rules.sensitive is None:
        return
    for number, _ in enumerate(rules.sensitive.word_lists):
        for file in matching_files(parents[f"{path}.sensitive.word_lists.{number}"].path):
            yield from words_of(file)


def words_of(file: Path) -> list[str]:
    """The words in a file. Raises InputError if it is not text or has no word."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise InputError("A word list is not text in UTF-8", where=str(file), fix="Save it as UTF-8.") from None
    words = [line for line in lines if line and not line.startswith("#")]
    if not words:
        raise InputError("A word list has no word", where=str(file), fix="Write one word or phrase a line.")
    return words
