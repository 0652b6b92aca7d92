"""What a page of rows is, and what a filter asks of them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

SEARCH_SECONDS = 0.2
"""A page is answered after so long; what was not searched yet is searched by the next."""


@dataclass(frozen=True)
class BrowsedRow:
    """One row, counted from 0."""

    number: int
    values: Any


@dataclass(frozen=True)
class RowPage:
    """A part of a file's rows."""

    rows: list[BrowsedRow]
    num_rows: int | None
    """Of the whole file; None while they are counted."""
    next_row: int | None
    """Where the next page begins; None at the end."""
    note: str = ""
    searched: int | None = None
    """With a filter: how many rows were searched."""


@dataclass(frozen=True)
class RowFilter:
    """Rows that hold a text, letters of either case, and rows whose field has a value. Empty: every row."""

    text: str = ""
    field: str = ""
    value: str = ""

    def __bool__(self) -> bool:
        return bool(self.text or self.field)

    def needles(self) -> list[tuple[bytes, ...]]:
        """Each must be in a JSON line of a row that fits, in one of its spellings; lower case."""
        wanted = [text for text in (self.text, self.value if self.field else "", self.field) if text]
        return [tuple(dict.fromkeys((_spelt(text, False), _spelt(text, True)))) for text in wanted]

    def fits(self, values: Any) -> bool:
        if self.field and not self._has_value(values):
            return False
        if not self.text:
            return True
        return self.text.lower() in json.dumps(values, ensure_ascii=False).lower() or self.text.lower() in _flat(values)

    def _has_value(self, values: Any) -> bool:
        for part in self.field.split("."):
            values = values.get(part) if isinstance(values, Mapping) else None
        return values is not None and shown_value(values) == self.value


def _spelt(text: str, is_ascii: bool) -> bytes:
    """A text as it stands in a JSON line."""
    return json.dumps(text, ensure_ascii=is_ascii)[1:-1].lower().encode()


def _flat(values: Any) -> str:
    if isinstance(values, Mapping):
        return "\n".join(_flat(value) for value in values.values())
    if isinstance(values, list):
        return "\n".join(map(_flat, values))
    return str(values).lower()


def shown_value(value: Any) -> str:
    """A value as text: texts as they are, others as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@dataclass
class Deadline:
    """A moment by which a page is answered."""

    seconds: float = SEARCH_SECONDS
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds

    def is_over(self) -> bool:
        return time.monotonic() > self._end


class RowSource(Protocol):
    """A file whose rows can be read from anywhere."""

    def page(self, start: int, count: int) -> RowPage: ...

    def search(self, wanted: RowFilter, start: int, count: int) -> RowPage:
        """The next `count` rows from `start` on that fit, or those found before the deadline."""
