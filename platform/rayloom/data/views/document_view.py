"""The words, lines and paragraphs of one document, for the rules; each is computed once, when first used."""

from __future__ import annotations

import re
from functools import cached_property

# Scripts that put no spaces between words: Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar.
UNSPACED = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
UNSPACED_SHARE = 0.2
"""A document with this share of such characters counts as text without spaces; mixed Chinese pages have over 0.4."""

_UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")
_UNSPACED_WORD = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}]+")


def is_unspaced(text: str) -> bool:
    """Whether the text is in a script without spaces between words, such as Chinese or Japanese."""
    if text.isascii() or not text:
        return False
    return sum(1 for _ in _UNSPACED_CHARACTER.finditer(text)) >= UNSPACED_SHARE * len(text)


class TextView:
    """A normalised text and the units that rules count in it."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def is_unspaced(self) -> bool:
        return is_unspaced(self.text)

    @cached_property
    def words(self) -> list[str]:
        """The words between white space; in scripts without spaces, each character is a word."""
        return _UNSPACED_WORD.findall(self.text) if self.is_unspaced else self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not empty."""
        return [line for line in self.text.split("\n") if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [paragraph for paragraph in self.text.split("\n\n") if paragraph]
