"""Parsing of JSON rows: NaN and infinities become null; values nested too deeply or too long are bad rows."""

from __future__ import annotations

import json
import math
from typing import Any

from rayloom.reading.records import EXCERPT_CHARACTERS, MAX_DEPTH, BadRow, FileRecord

NOT_TOO_DEEP = f"lists and objects stand in each other more than {MAX_DEPTH} deep"


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None)


def json_record(number: int, text: str) -> FileRecord | BadRow:
    """The value of one row of text."""
    try:
        value = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return bad_json(number, text, error)
    return checked(number, value, text)


def checked(number: int, value: Any, text: str) -> FileRecord | BadRow:
    """The value of `text` as a record, or a bad row if it is nested too deeply."""
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        return BadRow(number, "nested_too_deep", NOT_TOO_DEEP)
    return FileRecord(number, value)


def bad_json(number: int, text: str, error: Exception) -> BadRow:
    if isinstance(error, RecursionError):
        return BadRow(number, "nested_too_deep", NOT_TOO_DEEP)
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
