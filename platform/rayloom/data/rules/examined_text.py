"""A text on its way through the rules: as it is now, and what was noted about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rayloom.data.views.comparison_form import Folded
from rayloom.data.views.document_view import TextView


class ExaminedText:
    """What a rule is given. It may rewrite the text for the rules behind it, and note what is counted in the end."""

    def __init__(self, text: str, listed_words: Sequence[str] = ()) -> None:
        self.view = TextView(text)
        self.listed_words = listed_words
        """Out of files, beside those that the rules name."""
        self.notes: Counter[str] = Counter()
        """`kind/value`: `masked/email`, `languages/de`."""
        self._folded: Folded | None = None

    @property
    def text(self) -> str:
        return self.view.text

    @property
    def folded(self) -> Folded:
        """The form in which it is compared with other texts."""
        if self._folded is None:
            self._folded = Folded(self.text, self.view.is_unspaced)
        return self._folded

    def rewrite(self, text: str) -> None:
        if text != self.text:
            self.view, self._folded = TextView(text), None

    def note(self, kind: str, value: str, count: int = 1) -> None:
        self.notes[f"{kind}/{value}"] += count
