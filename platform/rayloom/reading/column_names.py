"""Columns under the names that a job gives them, and numbers of classes as the classes' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rayloom.reading.records import BadRow, FileRecord, ReadOptions

_MISSING = object()


class RenamedColumns:
    """Reads `options.columns` and `options.class_names` into records."""

    def __init__(self, options: ReadOptions) -> None:
        self._columns, self._class_names = options.columns, options.class_names
        self._taken = set(self._columns.values())

    def own(self, options: ReadOptions) -> ReadOptions:
        """The options with the names that the columns have in the file."""
        if not self._columns:
            return options
        # Whether `a.b` is a column or a part of the column `a` is known row by row only.
        own = {column: self._columns.get(column, column) for column in options.required_columns}
        required = [name for name in own.values() if "." not in name]
        further = [*own.values(), *(self._columns.get(name, name) for name in options.optional_columns or ())]
        optional = [part for name in further for part in (name, name.partition(".")[0])]
        return replace(
            options,
            required_columns=tuple(required),
            optional_columns=None if options.optional_columns is None else tuple(dict.fromkeys(optional)),
        )

    def renamed(self, row: FileRecord | BadRow) -> FileRecord | BadRow:
        """The record with the job's names; a column whose name another one takes is left out.

        A number without a class is a bad row; -1, which data sets write where they hide the label, is null.
        """
        if isinstance(row, BadRow) or not isinstance(row.values, dict) or not (self._columns or self._class_names):
            return row
        values = row.values
        for column, names in self._class_names.items():
            if column in values:
                try:
                    values = values | {column: _named(values[column], names)}
                except (IndexError, TypeError, ValueError):
                    detail = f"{column} is {values[column]!r}, and its classes are 0 to {len(names) - 1}"
                    return BadRow(row.number, "unknown_class", detail)
        if self._columns:
            found = {name: _value(values, own) for name, own in self._columns.items()}
            rest = {k: v for k, v in values.items() if k not in self._taken and k not in found}
            values = rest | {name: value for name, value in found.items() if value is not _MISSING}
        return FileRecord(row.number, values)


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if value is None or value in names:
        return value
    number = int(value)  # a table without types holds it as text
    if number < -1:
        raise IndexError(number)
    return None if number == -1 else names[number]


def _value(values: Mapping[str, Any], own: str) -> Any:
    """The value of a column, or of a part of it; `_MISSING` if there is none."""
    if own in values:
        return values[own]
    found: Any = values
    for part in own.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _MISSING
        found = found[part]
    return found
