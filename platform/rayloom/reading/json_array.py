"""A streaming reader of one JSON array, which holds one element at a time; and the parsing of JSON rows."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from typing import IO, Any

from rayloom.reading.records import (
    EXCERPT_CHARACTERS,
    MAX_DEPTH,
    BadRow,
    DamagedFileError,
    FileRecord,
    ReadOptions,
    row_too_long,
)

READ_BYTES = 1 << 16
LONGEST_WORD = 16
"""An error within so many characters of the window's end can be a word (`-Infinity`) or escape cut by the window."""
_SPACE = re.compile(r"[ \t\n\r]*")
_OUTSIDE_TEXT = re.compile(r'["\[\]{},]')
_INSIDE_TEXT = re.compile(r'\\.|"', re.DOTALL)
_INVALID = re.compile("[\udc80-\udcff]")


def json_array_records(text: IO[bytes], options: ReadOptions) -> Iterator[FileRecord | BadRow]:
    """The elements of the array. Raises DamagedFileError if the file is not an array, or at the first invalid JSON."""
    array = _ArrayText(text, options.max_row_bytes)
    if (begins := array.next_mark()) != "[":
        raise DamagedFileError(f"it is no JSON array: it begins with {begins!r}" if begins else "it holds nothing")
    number, mark = 0, array.next_mark(peek=True)
    if mark == "]":
        array.next_mark()
    while mark != "]":
        number += 1
        yield array.element(number)
        mark = array.next_mark()
        if mark not in (",", "]"):
            reason = f"{mark!r} stands behind it" if mark else "the file ends behind it"
            raise DamagedFileError(
                f"its array is broken at row {number}: {reason}, where a comma or the array's end should be"
            )
    if array.next_mark():
        raise DamagedFileError(f"more follows behind its array of {number:,} rows")


class _ArrayText:
    """A window on the text, and the reader's position in it."""

    def __init__(self, text: IO[bytes], max_row_bytes: int) -> None:
        self._source, self._max_row_bytes = text, max_row_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._text, self._at = "", 0

    def next_mark(self, *, peek: bool = False) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more():
                break
        mark = self._text[self._at : self._at + 1]
        self._at += 0 if peek else len(mark)
        return mark

    def element(self, number: int) -> FileRecord | BadRow:
        """The value that begins here. Raises DamagedFileError if there is none."""
        self.next_mark(peek=True)
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                goes_on = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - LONGEST_WORD
                if goes_on and len(self._text) - self._at > self._max_row_bytes:
                    return self._skipped(number, row_too_long(number, self._max_row_bytes))
                if not goes_on or not self._more():
                    raise DamagedFileError(f"its array is broken at row {number}: {error.msg}") from None
            except (ValueError, RecursionError) as error:
                return self._skipped(number, bad_json(number, "", error))
            else:
                # A value that ends with the window can be a number that continues after it.
                if end < len(self._text) or not self._more():
                    break
        text, self._at = self._text[self._at : end], end
        if len(text) * 4 > self._max_row_bytes and len(text.encode("utf-8", "replace")) > self._max_row_bytes:
            return row_too_long(number, self._max_row_bytes)
        if not text.isascii() and _INVALID.search(text):
            return BadRow(number, "invalid_utf8", "it has bytes that are not UTF-8 (name the file's `encoding`)")
        return checked(number, value, text)

    def _skipped(self, number: int, bad: BadRow) -> BadRow:
        """Skips an element without holding it in memory; returns `bad`."""
        depth, is_inside_text, at = 0, False, self._at
        while True:
            match = (_INSIDE_TEXT if is_inside_text else _OUTSIDE_TEXT).search(self._text, at)
            if match is None:
                # An escape cut by the window is kept for the next one.
                self._at = len(self._text) - (is_inside_text and self._text.endswith("\\", at))
                if not self._more():
                    raise DamagedFileError(f"its array is broken at row {number}, which does not end")
                at = self._at
                continue
            mark, at = match[0], match.end()
            if is_inside_text:
                is_inside_text = mark != '"'
            elif mark == '"':
                is_inside_text = True
            elif mark in "[{":
                depth += 1
            elif depth == 0:
                self._at = match.start()
                return bad
            elif mark in "]}":
                depth -= 1

    def _more(self) -> bool:
        """Drops the text before the position and reads as much again as is left; False at the end of the file."""
        left = self._text[self._at :]
        part = self._source.read(max(READ_BYTES, len(left)))
        self._text, self._at = left + self._decoder.decode(part, final=not part), 0
        return bool(part)


# Parsing of JSON rows: NaN and infinities become null; values nested too deeply or too long are bad rows, and so are
# objects that have a key twice with different values.

NOT_TOO_DEEP = f"lists and objects stand in each other more than {MAX_DEPTH} deep"


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


class DuplicateKeyError(ValueError):
    """An object says two different things under one key, of which a parser keeps the last."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        for key, value in pairs:
            if value != values[key]:
                raise DuplicateKeyError(f"the key `{key[:EXCERPT_CHARACTERS]}` stands twice in one object")
    return values


DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None, object_pairs_hook=_object)


def json_record(number: int, text: str) -> FileRecord | BadRow:
    """The value of one row of text."""
    try:
        value = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return bad_json(number, text, error)
    return checked(number, value, text)


def checked(number: int, value: Any, text: str) -> FileRecord | BadRow:
    """The value of `text` as a record, or a bad row if it is nested too deeply."""
    return BadRow(number, "nested_too_deep", NOT_TOO_DEEP) if is_too_deep(value, text) else FileRecord(number, value)


def is_too_deep(value: Any, text: str) -> bool:
    """Whether the value of `text` is nested deeper than MAX_DEPTH."""
    return text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH)


def bad_json(number: int, text: str, error: Exception) -> BadRow:
    if isinstance(error, RecursionError):
        return BadRow(number, "nested_too_deep", NOT_TOO_DEEP)
    if isinstance(error, DuplicateKeyError):
        return BadRow(number, "duplicate_key", f"{error}, with different values")
    if not isinstance(error, json.JSONDecodeError):  # it exceeds Python's limit on the digits of an integer
        return BadRow(number, "number_too_long", "a number has more than 4,300 digits")
    return BadRow(number, "malformed_json", f"{error}: {text[:EXCERPT_CHARACTERS].strip()}")


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True
