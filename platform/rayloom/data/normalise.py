"""Text written one way before anything judges, compares or tokenises it. Applying it twice changes nothing more."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from ftfy import fixes
from ftfy.badness import is_bad
from ftfy.chardata import LIGATURES

from rayloom.specs.clean import Normalisation

MAX_ROUNDS = 8
"""Mended text can need mending again (`&amp;lt;`); no real text was seen to need more than three rounds."""

# Characters that carry no text: C0 and C1 controls but tab and line ends, zero-width marks, byte-order marks, and
# the interlinear and object markers. Joiners stay: emoji, Persian and Indic scripts need them.
_CONTROLS = [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0)]
_INVISIBLE = [0x00AD, 0x200B, 0x2060, 0xFEFF, *range(0xFFF9, 0xFFFD)]
_REMOVED = dict.fromkeys([*_CONTROLS, *_INVISIBLE])
_LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029\x85\x0b\x0c]")
_QUOTES = {0x2BC: "'", **dict.fromkeys(range(0x2018, 0x201C), "'"), **dict.fromkeys(range(0x201C, 0x2020), '"')}
# What wrongly decoded UTF-8 always has, and prose with single curly quotes and accents seldom. ftfy's own test is
# twenty times slower; on 4,155 real documents this lets through every one that ftfy would mend.
_MAYBE_WRONG = re.compile(r"[^\x00-\x7f]{2}|[ÂÃ][ -~]")
_EMPTY_LINES = re.compile(r"\n{3,}")


def normaliser(spec: Normalisation) -> Callable[[str], str]:
    """The function that writes text the way `spec` says."""
    replaced: dict[int, str | None] = dict(_REMOVED)
    if spec.straight_quotes:
        replaced |= _QUOTES | LIGATURES

    def once(text: str) -> str:
        text = _mended(text) if spec.fix_encoding else text
        text = _characters(text, replaced)
        return _white_space(text) if spec.white_space == "collapse" else text

    def normalise(text: str) -> str:
        for _ in range(MAX_ROUNDS):
            before, text = text, once(text)
            if text == before or _is_settled(text):
                break
        return text

    return normalise


def _is_settled(text: str) -> bool:
    """Whether another round surely changes nothing: there is nothing left in it that could be mended."""
    return text.isascii() and "&" not in text


def _mended(text: str) -> str:
    if "&" in text and "<" not in text:  # with a tag in it, it may be HTML that means its entities
        text = fixes.unescape_html(text)
    if not text.isascii() and _MAYBE_WRONG.search(text):
        text = "\n".join(map(_mended_line, text.split("\n")))
    return text


def _mended_line(line: str) -> str:
    return fixes.fix_encoding(line) if _MAYBE_WRONG.search(line) and is_bad(line) else line


def _characters(text: str, replaced: dict[int, str | None]) -> str:
    if not text.isascii():
        # Line ends first: U+0085 and its like are among the controls that go.
        text = _LINE_ENDS.sub("\n", text).translate(replaced)
        text = text.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair is no character
        return unicodedata.normalize("NFC", text)
    if not text.replace("\n", "").replace("\t", "").isprintable():
        text = _LINE_ENDS.sub("\n", text).translate(replaced)
    return text


def _white_space(text: str) -> str:
    text = "\n".join([" ".join(line.split()) for line in text.split("\n")])
    return _EMPTY_LINES.sub("\n\n", text).strip()
