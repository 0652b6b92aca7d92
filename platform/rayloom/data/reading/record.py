"""A record with named columns as a row: its text, label and the columns that are kept, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayloom.data.reading.row import BadRow, Row
from rayloom.errors import InputError
from rayloom.specs.cleaning.text_sources import Columns


def row_of(number: int, values: Mapping[str, Any], spec: Columns) -> Row | BadRow:
    """The row that the columns named in `spec` make."""
    text = _text(number, values, spec.text_columns)
    if isinstance(text, BadRow):
        return text
    label = "" if spec.label_column is None else _label(number, values, spec.label_column)
    if isinstance(label, BadRow):
        return label
    return Row(number, text, label=label, columns={name: values[name] for name in spec.keep_columns if name in values})


def wanted_columns(spec: Columns) -> tuple[str, ...]:
    """What every row must have."""
    label = () if spec.label_column is None else (spec.label_column,)
    return tuple(dict.fromkeys((*spec.text_columns, *label)))


def read_columns(spec: Columns, there: Sequence[str]) -> list[str]:
    """What is read of a table: what every row must have, and the kept columns that the table has."""
    return list(dict.fromkeys((*wanted_columns(spec), *(name for name in spec.keep_columns if name in there))))


def check_columns(wanted: Sequence[str], there: Sequence[str], name: str) -> None:
    """Raises InputError where a file lacks a column that the job names."""
    for column in wanted:
        if column not in there:
            fix = f"The file has: {', '.join(there)}. Correct text_columns in the job file."
            raise InputError(f"There is no column {column}", where=name, fix=fix)


def _text(number: int, values: Mapping[str, Any], columns: Sequence[str]) -> str | BadRow:
    """The text columns of a record, joined."""
    found = []
    for column in columns:
        if column not in values:
            return BadRow(number, "missing_column", f"no {column}; the row has: {', '.join(map(str, values))}")
        value = values[column]
        if value is None:
            return BadRow(number, "null_text", f"{column} is null")
        if not isinstance(value, str):
            return BadRow(number, "not_text", f"{column} is of type {type(value).__name__}")
        if value.strip():
            found.append(value)
    return "\n".join(found)


def _label(number: int, values: Mapping[str, Any], column: str) -> str | BadRow:
    if column not in values:
        return BadRow(number, "missing_column", f"no {column}; the row has: {', '.join(map(str, values))}")
    value = values[column]
    if value is None or value == "":
        return BadRow(number, "no_label", f"{column} is empty")
    if not isinstance(value, str | int):
        return BadRow(number, "not_a_label", f"{column} is of type {type(value).__name__}")
    return str(value).encode("utf-8", "replace").decode()  # half of a surrogate pair is no character
