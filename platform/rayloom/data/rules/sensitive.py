"""Detection and masking of personal data, by pattern and checksum if it has one; listed words by Aho-Corasick.

Masking replaces each match by its kind in brackets, which is never matched again. Not covered: names, postal addresses,
and numbers without a recognisable form (passports, tax numbers).
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ahocorasick

from rayloom.artifacts.files import matching_files
from rayloom.artifacts.store import Artifact
from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.errors import InputError
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.rules import Rules, SensitiveRules

Check = Callable[[str], bool]

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![\w-])", re.ASCII)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<![\d.,-])[2-6]\d{3}(?:[ -]?\d{2,4}){2,4}\d?(?![\d-])")
_CHINESE_ID = re.compile(r"(?<![0-9A-Za-z])[1-9]\d{5}(?:19|20)\d{2}[01]\d[0-3]\d{4}[0-9Xx](?![0-9A-Za-z])")
_IP = re.compile(r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4})(?![\w.:]*\w)")
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"  # +44 20 7946 0958
    r"|\(\d{2,4}\)[ .-]?\d{3,4}[ .-]?\d{3,4}"  # (020) 7946 0958
    r"|\d{3}[ .-]\d{3}[ .-]\d{4}"  # 202-555-0143
    r"|1[3-9]\d{9})(?![\w/-])"  # a mobile number in China
)
MIN_PHONE_DIGITS, MAX_PHONE_DIGITS = 9, 15
_CARD_LENGTHS = range(13, 20)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def is_iban(text: str) -> bool:
    """Whether the checksum is right (ISO 13616): first four characters last, letters as numbers, modulo 97 is 1."""
    letters = text.replace(" ", "")
    return 15 <= len(letters) <= 34 and int("".join(str(int(c, 36)) for c in letters[4:] + letters[:4])) % 97 == 1


def is_card(text: str) -> bool:
    """Whether Luhn's check digit is right (ISO/IEC 7812)."""
    digits = [int(letter) for letter in text if letter.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(digits) in _CARD_LENGTHS and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def is_chinese_id(text: str) -> bool:
    """Whether the check digit of the first seventeen digits is right (GB 11643-1999)."""
    rest = sum(int(digit) * weight for digit, weight in zip(text, _ID_WEIGHTS, strict=False)) % 11
    return text[-1].upper() == "10X98765432"[rest]


def is_ip_address(text: str) -> bool:
    """Whether it is a public address, which can identify a person; private and loopback ones cannot."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def is_phone(text: str) -> bool:
    return MIN_PHONE_DIGITS <= sum(map(str.isdigit, text)) <= MAX_PHONE_DIGITS


# The order matters: kinds with a checksum come before telephone numbers, whose pattern is loose.
KINDS: dict[str, tuple[re.Pattern[str], Check]] = {
    "email": (_EMAIL, lambda _: True),
    "iban": (_IBAN, is_iban),
    "payment_card": (_CARD, is_card),
    "chinese_id": (_CHINESE_ID, is_chinese_id),
    "ip_address": (_IP, is_ip_address),
    "phone": (_PHONE, is_phone),
}


def judge(examined: ExaminedText, rules: SensitiveRules) -> Drop | None:
    """Masks personal data and notes how often each kind was masked; or returns why the text is dropped."""
    words = (*rules.words, *examined.listed_words)
    num_listed = word_list(words).count(examined.text) if words else 0
    if num_listed > rules.max_listed_words:
        return Drop("listed_words", num_listed)
    text, masked_kinds = examined.text, Counter[str]()
    for kind in KINDS:
        action = getattr(rules, kind)
        if action == "keep":
            continue
        text, count = _without(kind, text)
        if count and action == "drop":
            return Drop(f"has_{kind}", count)
        masked_kinds[kind] = count
    examined.rewrite(text)
    for kind, count in (+masked_kinds).items():
        examined.note("masked", kind, count)
    return None


def masked(text: str, rules: SensitiveRules) -> str:
    """The text with every kind masked that `rules` does not keep; for kept columns, which are not judged."""
    for kind in KINDS:
        if getattr(rules, kind) != "keep":
            text, _ = _without(kind, text)
    return text


def _without(kind: str, text: str) -> tuple[str, int]:
    """The text with one kind masked, and the number of matches."""
    pattern, check = KINDS[kind]
    matches = [match for match in pattern.finditer(text) if check(match[0])] if _may_hold(kind, text) else []
    for match in reversed(matches):
        text = f"{text[: match.start()]}[{kind.upper()}]{text[match.end() :]}"
    return text, len(matches)


def _may_hold(kind: str, text: str) -> bool:
    return "@" in text if kind == "email" else True


class WordList:
    """Search for all listed words and phrases in one pass; whole words only, ignoring case.

    In scripts without spaces, a word is also found inside other text.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._automaton = ahocorasick.Automaton()
        for word in map(str.casefold, words):
            self._automaton.add_word(word, len(word))
        self._automaton.make_automaton()

    def count(self, text: str) -> int:
        """Number of occurrences of listed words."""
        folded = text.casefold()
        return sum(is_whole_word(folded, end - length + 1, end + 1) for end, length in self._automaton.iter(folded))


@functools.lru_cache(maxsize=64)
def word_list(words: tuple[str, ...]) -> WordList:
    """A list, built once a process for each set of words."""
    return WordList(words)


def is_whole_word(text: str, begin: int, end: int) -> bool:
    """Whether no letter or digit is next to the word; always true in scripts without spaces."""
    before, after = text[begin - 1 : begin], text[end : end + 1]
    if not text[begin].isascii():
        return True
    return not before.isalnum() and not after.isalnum()


# Listed words from the files that the rules name; a document may have only a limited number of them.


def listed_words(spec: CleanSpec, parents: Mapping[str, Artifact]) -> dict[str, tuple[str, ...]]:
    """The words from files for each domain."""
    by_domain = {}
    for source in spec.sources:
        own = source.domain in spec.domain_rules
        path = f"domain_rules.{source.domain}" if own else "rules"
        by_domain[source.domain] = tuple(dict.fromkeys(_words(spec.rules_of(source.domain), path, parents)))
    return by_domain


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
