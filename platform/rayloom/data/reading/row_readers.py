"""Rows out of source files, one by one: a text, or why there is none. Nothing that is in a file goes missing silently.

Rows are numbered from 1 in each file: lines of JSON lines and of text, records of CSV below the header.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any

from rayloom.data.reading import table_rows
from rayloom.data.reading.compressed import DAMAGED
from rayloom.data.reading.csv_rows import csv_rows
from rayloom.data.reading.line_rows import json_rows, text_rows
from rayloom.data.reading.record import check_columns, read_columns, row_of, wanted_columns
from rayloom.data.reading.row import EXCERPT_CHARACTERS, BadRow, Row, too_long
from rayloom.data.reading.source_stream import Input
from rayloom.specs.cleaning.text_sources import (
    Arrow,
    Csv,
    DocumentFiles,
    JsonArray,
    JsonLines,
    Parquet,
    PlainText,
    TextSource,
    Warc,
)


def rows_of(source: DocumentFiles, opened: Input, name: str, max_row_bytes: int) -> Iterator[Row | BadRow]:
    """Every row of a file, in order. Raises InputError where a CSV file lacks a column that the source names."""
    number, label = 0, source.label if isinstance(source, TextSource) else None
    try:
        for row in _readers(source, opened, name, max_row_bytes):
            number = row.number
            yield row if label is None or isinstance(row, BadRow) else replace(row, label=label)
    except (*DAMAGED, *table_rows.DAMAGED_TABLE) as error:
        yield BadRow(number + 1, "damaged_file", f"the rest of the file cannot be read: {error}")
        return
    if not number:
        yield BadRow(0, "empty_file", "the file has no rows")


def _readers(source: DocumentFiles, opened: Input, name: str, max_row_bytes: int) -> Iterator[Row | BadRow]:
    spec, stream = source.format, opened.stream
    if isinstance(spec, JsonLines):
        return json_rows(spec, stream, max_row_bytes)
    if isinstance(spec, Csv):
        return csv_rows(spec, stream, name, max_row_bytes)
    if isinstance(spec, PlainText):
        return text_rows(spec, stream, max_row_bytes)
    if isinstance(spec, Warc):
        return _page_rows(spec, stream, max_row_bytes)
    return _table_rows(spec, stream, name, max_row_bytes)


def _table_rows(
    spec: JsonArray | Parquet | Arrow, stream: IO[bytes], name: str, max_row_bytes: int
) -> Iterator[Row | BadRow]:
    for number, record in enumerate(_records(spec, stream, name), start=1):
        if not isinstance(record, dict):
            yield BadRow(number, "not_an_object", str(record)[:EXCERPT_CHARACTERS])
            continue
        row = row_of(number, record, spec)
        is_long = isinstance(row, Row) and len(row.text) * 4 > max_row_bytes and len(row.text.encode()) > max_row_bytes
        yield too_long(number, max_row_bytes) if is_long else row


def _records(spec: JsonArray | Parquet | Arrow, stream: IO[bytes], name: str) -> Iterator[Any]:
    if isinstance(spec, JsonArray):
        yield from table_rows.json_records(stream)
    elif isinstance(spec, Parquet):
        there = table_rows.parquet_columns(stream)
        check_columns(wanted_columns(spec), there, name)
        yield from table_rows.parquet_records(stream, read_columns(spec, there))
    else:
        for batch in table_rows.arrow_batches(stream):
            check_columns(wanted_columns(spec), batch.schema.names, name)
            yield from table_rows.batch_records(batch, read_columns(spec, batch.schema.names))


def _page_rows(spec: Warc, stream: IO[bytes], max_row_bytes: int) -> Iterator[Row | BadRow]:
    from rayloom.data.reading.warc_pages import pages

    for page in pages(stream, spec.main_content_only, max_row_bytes):
        yield too_long(page.number, max_row_bytes) if page.too_long else Row(page.number, page.text, page.drop)
