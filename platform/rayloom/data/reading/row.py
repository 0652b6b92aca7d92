"""One row out of a file: a document, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EXCERPT_CHARACTERS = 200


@dataclass(frozen=True)
class Row:
    """A document as its file has it."""

    number: int
    text: str
    drop: str = ""
    """A reason for which it is no document, found while reading: `not_html`."""
    label: str = ""
    columns: dict[str, Any] = field(default_factory=dict)
    """What `keep_columns` names, as plain JSON values."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read: it is quarantined under `reason`. 0 stands for the whole file."""

    number: int
    reason: str
    detail: str


def too_long(number: int, max_bytes: int) -> BadRow:
    return BadRow(number, "row_too_long", f"more than {max_bytes:,} bytes (max_row_bytes)")


def decoded(number: int, line: bytes) -> str | BadRow:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        around = line[max(0, error.start - 40) : error.start + 40].decode("utf-8", "replace")
        return BadRow(number, "invalid_utf8", f"byte {error.start} of the row, near: {around}")
