"""C4's filters (Raffel et al. 2020, arXiv:1910.10683, section 2.2): first of lines, then of the remaining document."""

from __future__ import annotations

import itertools
import re

from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.specs.cleaning.rules import C4Rules
from rayloom.text.text_views import UNSPACED, is_unspaced

END_MARKS = (".", "?", "!", '"', "'", "”", "。", "？", "！", "」", "』")
_ELLIPSES = ("...", "…")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_SENTENCE_END = re.compile(r"""[.!?]+["')\]]*(?=\s|$)|[。！？]+[”」』]*""")
_UNSPACED = re.compile(f"[{UNSPACED}]")


def judge(examined: ExaminedText, rules: C4Rules) -> Drop | None:
    """Removes the lines that C4 filters out, or returns why the whole document is dropped."""
    left = without_lines(examined.text, rules)
    if isinstance(left, Drop):
        return left
    examined.rewrite(left)
    return None


def without_lines(text: str, rules: C4Rules) -> str | Drop:
    if rules.drop_lorem_ipsum and "lorem ipsum" in text.casefold():
        return Drop("lorem_ipsum", 1)
    if rules.drop_curly_brackets and "{" in text:
        return Drop("curly_bracket", text.count("{"))
    if rules.remove_citation_marks and "[" in text:
        text = _CITATION.sub("", text)
    unspaced = is_unspaced(text)
    kept = "\n".join(line for line in text.split("\n") if not line or keeps_line(line, rules, unspaced)).strip()
    if sum(1 for _ in itertools.islice(_SENTENCE_END.finditer(kept), rules.min_sentences)) == rules.min_sentences:
        return kept  # enough end marks are enough sentences; the rest of the page need not be counted
    sentences = num_sentences(kept)
    return Drop("too_few_sentences", sentences) if sentences < rules.min_sentences else kept


def keeps_line(line: str, rules: C4Rules, unspaced: bool) -> bool:
    """Whether C4 keeps a line that is not empty."""
    line = line.rstrip()
    if rules.line_needs_end_mark and (not line.endswith(END_MARKS) or line.endswith(_ELLIPSES)):
        return False
    if not unspaced:
        if len(line.split(None, rules.min_words_per_line)) < rules.min_words_per_line:
            return False
        if len(line) > rules.max_word_characters and max(map(len, line.split())) > rules.max_word_characters:
            return False
    elif len(line.split()) + len(_UNSPACED.findall(line)) < rules.min_words_per_line:
        return False
    folded = line.casefold()
    if rules.drop_javascript_lines and "javascript" in folded:
        return False
    return not (rules.drop_policy_lines and any(phrase in folded for phrase in _POLICY))


def num_sentences(text: str) -> int:
    """Number of sentences, by their end marks; text after the last mark counts as one more."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    rest = text[ends[-1] :] if ends else text
    return len(ends) + bool(rest.strip())
