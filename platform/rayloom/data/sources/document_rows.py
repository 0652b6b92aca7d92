"""Rows of a cleaning job from the records of source files: a text, or a counted reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rayloom.reading.files import read_stream
from rayloom.reading.hub_datasets import ClassNames
from rayloom.reading.records import EXCERPT_CHARACTERS, BadRow, FileRecord, ReadOptions, row_too_long
from rayloom.reading.source_stream import SourceStream
from rayloom.specs.cleaning.text_sources import Columns, Csv, DocumentFiles, PlainText, TextSource, Tsv, Warc
from rayloom.specs.row_files import matches


@dataclass(frozen=True)
class SourceRow:
    """A document as read from its file."""

    number: int
    text: str
    drop: str = ""
    """Why the record is not a document, as the reader says: `not_html`; empty if it is one."""
    label: str = ""
    columns: dict[str, Any] = field(default_factory=dict)
    """The columns in `keep_columns`, as plain JSON values."""


def document_rows(
    source: DocumentFiles, opened: SourceStream, name: str, max_row_bytes: int, class_names: ClassNames | None = None
) -> Iterator[SourceRow | BadRow]:
    """Every row of a file, in order; `name` is its path relative to its source.

    Raises InputError if the file is damaged and the source does not allow that, or if a table lacks a column.
    """
    row = None
    where = f"{source.name}: {name}"
    options = replace(read_options(source, name, max_row_bytes), class_names=class_names or {})
    for row in read_stream(opened, options, where):
        yield row if isinstance(row, BadRow) else _source_row(source, row, max_row_bytes)
    if row is None:
        yield BadRow(0, "empty_file", "the file has no rows")


def read_options(source: DocumentFiles, name: str, max_row_bytes: int) -> ReadOptions:
    spec = source.format
    columns = spec if isinstance(spec, Columns) else Columns()
    label = () if columns.label_column is None else (columns.label_column,)
    return ReadOptions(
        format=spec.type,
        encoding=source.encoding,
        max_row_bytes=max_row_bytes,
        required_columns=(*columns.text_columns, *label),
        optional_columns=columns.keep_columns,
        unit=spec.documents if isinstance(spec, PlainText) else "line",
        delimiter=spec.delimiter if isinstance(spec, Csv) else None,
        is_quoted=spec.quoted if isinstance(spec, Tsv) else None,
        main_content_only=isinstance(spec, Warc) and spec.main_content_only,
        is_damage_allowed=any(matches(name, pattern) for pattern in source.damaged_files),
        columns=source.columns,
    )


def _source_row(source: DocumentFiles, record: FileRecord, max_row_bytes: int) -> SourceRow | BadRow:
    label = source.label if isinstance(source, TextSource) and source.label is not None else ""
    if not isinstance(source.format, Columns):
        return SourceRow(record.number, record.values["text"], record.values.get("no_page", ""), label)
    if not isinstance(record.values, dict):
        return BadRow(record.number, "not_an_object", str(record.values)[:EXCERPT_CHARACTERS])
    return _row_of_columns(record.number, record.values, source.format, label, max_row_bytes)


def _row_of_columns(
    number: int, values: Mapping[str, Any], spec: Columns, label: str, max_row_bytes: int
) -> SourceRow | BadRow:
    text = _text(number, values, spec.text_columns)
    if isinstance(text, BadRow):
        return text
    if len(text) * 4 > max_row_bytes and len(text.encode("utf-8", "replace")) > max_row_bytes:
        return row_too_long(number, max_row_bytes)
    if spec.label_column is not None:
        read = _label(number, values, spec.label_column)
        if isinstance(read, BadRow):
            return read
        label = read
    columns = {name: values[name] for name in spec.keep_columns if name in values}
    return SourceRow(number, text, label=label, columns=columns)


def _text(number: int, values: Mapping[str, Any], columns: Sequence[str]) -> str | BadRow:
    """The text columns of a record, joined."""
    texts = []
    for column in columns:
        if column not in values:
            return _missing(number, values, column)
        value = values[column]
        if value is None:
            return BadRow(number, "null_text", f"{column} is null")
        if not isinstance(value, str):
            return BadRow(number, "not_text", f"{column} is of type {type(value).__name__}")
        if value.strip():
            texts.append(value)
    return "\n".join(texts)


def _label(number: int, values: Mapping[str, Any], column: str) -> str | BadRow:
    if column not in values:
        return _missing(number, values, column)
    value = values[column]
    if value is None or value == "":
        return BadRow(number, "no_label", f"{column} is empty")
    if not isinstance(value, str | int):
        return BadRow(number, "not_a_label", f"{column} is of type {type(value).__name__}")
    return str(value).encode("utf-8", "replace").decode()  # a lone surrogate is not a character


def _missing(number: int, values: Mapping[str, Any], column: str) -> BadRow:
    return BadRow(number, "missing_column", f"no {column}; the row has: {', '.join(map(str, values))}")
