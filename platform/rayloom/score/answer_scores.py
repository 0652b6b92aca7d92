"""How good answers in words are: exact match and F1 of their words (Rajpurkar et al. 2016, arXiv:1606.05250, 6.1).

Upper and lower case, punctuation, English articles and space do not count. In scripts without spaces a character is a
word.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")


def words_of(text: str) -> list[str]:
    """What of an answer counts."""
    kept = "".join(" " if unicodedata.category(c).startswith(("P", "S")) else c for c in text.casefold())
    return _UNSPACED.sub(r" \1 ", _ARTICLES.sub(" ", kept)).split()


def exact_match(answers: Sequence[str], found: str) -> float:
    """1 where the answer is one of those expected, else 0; none expected and none given is a match."""
    if not answers:
        return float(not found)
    return float(any(words_of(answer) == words_of(found) for answer in answers))


def word_f1(answers: Sequence[str], found: str) -> float:
    """The best F1 of the answer's words against any of those expected."""
    if not answers or not found:
        return exact_match(answers, found)
    return max(_f1(words_of(answer), words_of(found)) for answer in answers)


def _f1(want: list[str], got: list[str]) -> float:
    common = sum((Counter(want) & Counter(got)).values())
    return 2 * common / (len(want) + len(got)) if want or got else 1.0
