"""The state that rules share while they examine one text (the text so far, and notes), and their result, a drop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayloom.text.text_views import Folded, TextView


class ExaminedText:
    """The input of a rule, which may rewrite the text for the rules after it and note values to be counted."""

    def __init__(self, text: str, listed_words: Sequence[str] = ()) -> None:
        self.view = TextView(text)
        self.listed_words = listed_words
        """From files, in addition to those in the rules."""
        self.notes: Counter[str] = Counter()
        """Counts by `kind/value`: `masked/email`, `languages/de`."""
        self._folded: Folded | None = None

    @property
    def text(self) -> str:
        return self.view.text

    @property
    def folded(self) -> Folded:
        """The form in which the text is compared with others."""
        if self._folded is None:
            words = None if self.view.is_unspaced else self.view.words
            self._folded = Folded(self.text, self.view.is_unspaced, words)
        return self._folded

    def rewrite(self, text: str) -> None:
        if text != self.text:
            self.view, self._folded = TextView(text), None

    def note(self, kind: str, value: str, count: int = 1) -> None:
        self.notes[f"{kind}/{value}"] += count


# The result of a rule that drops a document.


@dataclass(frozen=True)
class Drop:
    """The document is dropped for `reason`; `value` is the measured value that broke the limit."""

    reason: str
    value: float
    rule: str = ""
    """The family of rules that dropped it."""
    hits: tuple[dict[str, Any], ...] = ()
    """The passages of evaluation sets found in the document."""
