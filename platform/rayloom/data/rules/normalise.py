"""Normalisation of text before rules, deduplication and tokenisation. It is idempotent."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from ftfy import fixes
from ftfy.badness import is_bad
from ftfy.chardata import LIGATURES

from rayloom.specs.clean import Normalisation

MAX_ROUNDS = 8
"""Repaired text can need repair again (`&amp;lt;`); no real text was seen to need more than three rounds."""

# Characters that carry no text: C0 and C1 controls but tab and line ends, zero-width marks, byte-order marks, and
# the interlinear and object markers. Joiners stay: emoji, Persian and Indic scripts need them.
_CONTROLS = [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0)]
_INVISIBLE = [0x00AD, 0x200B, 0x2060, 0xFEFF, *range(0xFFF9, 0xFFFD)]
_REMOVED = dict.fromkeys([*_CONTROLS, *_INVISIBLE], "")
# These controls (U+0085 and others) end a line.
_LINE_ENDS = dict.fromkeys([0x0D, 0x2028, 0x2029, 0x85, 0x0B, 0x0C], "\n")
_QUOTES = {0x2BC: "'", **dict.fromkeys(range(0x2018, 0x201C), "'"), **dict.fromkeys(range(0x201C, 0x2020), '"')}
# A fast test for UTF-8 decoded with a wrong encoding: such text always matches, prose with accents and curly quotes
# seldom. ftfy's own test is twenty times slower; this one missed none of those that ftfy repairs in 4,155 documents.
# The pattern begins with one character class, which the engine searches four times as fast as an alternation.
_MAYBE_WRONG = re.compile(r"[^\x00-\x7f](?:[^\x00-\x7f]|(?<=[ÂÃ])[ -~])")
# `\s` without space and line feed, written out because that is faster too.
_ODD_SPACE = re.compile(r"[\t\x0b\x0c\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_EMPTY_LINES = re.compile(r"\n{3,}")


def normaliser(spec: Normalisation) -> Callable[[str], str]:
    """The function that normalises text as `spec` says."""
    by_code = _REMOVED | (_QUOTES | LIGATURES if spec.straight_quotes else {}) | _LINE_ENDS
    replaced = {chr(code): text for code, text in by_code.items()}

    def characters(text: str) -> str:
        # Few of them occur in a text, and what replaces one is none of them: `str.translate` takes a hundred times as
        # long, a regular expression three times.
        text = text.replace("\r\n", "\n")
        for character in replaced.keys() & set(text):
            text = text.replace(character, replaced[character])
        return text

    def once(text: str) -> str:
        text = _mended(text) if spec.fix_encoding else text
        text = _characters(text, characters)
        return _white_space(text) if spec.white_space == "collapse" else text

    def normalise(text: str) -> str:
        for _ in range(MAX_ROUNDS):
            before, text = text, once(text)
            if text == before or _is_settled(text):
                break
        return text

    return normalise


def _is_settled(text: str) -> bool:
    """Whether another round certainly changes nothing: the text has nothing that could need repair."""
    return text.isascii() and "&" not in text


def _mended(text: str) -> str:
    if "&" in text and "<" not in text:  # with a tag, it may be HTML source, whose entities are meant
        text = fixes.unescape_html(text)
    if not text.isascii() and _MAYBE_WRONG.search(text):
        text = "\n".join(map(_mended_line, text.split("\n")))
    return text


def _mended_line(line: str) -> str:
    return fixes.fix_encoding(line) if _MAYBE_WRONG.search(line) and is_bad(line) else line


def _characters(text: str, replaced: Callable[[str], str]) -> str:
    if not text.isascii():
        text = replaced(text)
        text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is not a character
        return unicodedata.normalize("NFC", text)
    if not text.replace("\n", "").replace("\t", "").isprintable():
        text = replaced(text)
    return text


def _white_space(text: str) -> str:
    if _is_uneven(text):
        text = "\n".join([" ".join(line.split()) for line in text.split("\n")])
    return (_EMPTY_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip()


def _is_uneven(text: str) -> bool:
    """Whether a line begins or ends with white space, or words are separated by anything but one space."""
    odd = "\t" in text if text.isascii() else _ODD_SPACE.search(text) is not None
    return odd or "  " in text or " \n" in text or "\n " in text
