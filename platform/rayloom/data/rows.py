"""Rows out of source files, one by one: a text, or why there is none. Nothing that is in a file goes missing silently.

Rows are numbered from 1 in each file: lines of JSON lines and of text, records of CSV below the header.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rayloom.data import tables
from rayloom.data.compressed import DAMAGED, decompressed
from rayloom.errors import InputError
from rayloom.specs.clean import Arrow, Csv, JsonArray, JsonLines, Parquet, PlainText, TextSource, Warc

EXCERPT_CHARACTERS = 200
_TOO_LONG = "\x00a line that was too long to be read\x00"


@dataclass(frozen=True)
class Row:
    """A document as its file has it."""

    number: int
    text: str
    drop: str = ""
    """A reason for which it is no document, found while reading: `not_html`."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read: it is quarantined under `reason`. 0 stands for the whole file."""

    number: int
    reason: str
    detail: str


class Input:
    """A file being read; `bytes_read` counts what was taken off the disk, compressed or not."""

    def __init__(self, path: Path) -> None:
        try:
            self._raw = path.open("rb")
        except OSError as error:
            fix = "Check that every node sees the file and may read it."
            raise InputError(f"A source file cannot be read: {error.strerror}", where=str(path), fix=fix) from None
        self.stream = decompressed(self._raw, path.suffix)

    @property
    def bytes_read(self) -> int:
        return self._raw.tell()

    def close(self) -> None:
        self.stream.close()
        self._raw.close()


def rows_of(source: TextSource, opened: Input, name: str, max_row_bytes: int) -> Iterator[Row | BadRow]:
    """Every row of a file, in order. Raises InputError where a CSV file lacks a column that the source names."""
    number = 0
    try:
        for row in _readers(source, opened, name, max_row_bytes):
            number = row.number
            yield row
    except (*DAMAGED, *tables.DAMAGED_TABLE) as error:
        yield BadRow(number + 1, "damaged_file", f"the rest of the file cannot be read: {error}")
        return
    if not number:
        yield BadRow(0, "empty_file", "the file has no rows")


def _readers(source: TextSource, opened: Input, name: str, max_row_bytes: int) -> Iterator[Row | BadRow]:
    spec, stream = source.format, opened.stream
    if isinstance(spec, JsonLines):
        return _json_rows(spec, opened, max_row_bytes)
    if isinstance(spec, Csv):
        return _csv_rows(spec, opened, name, max_row_bytes)
    if isinstance(spec, PlainText):
        return _text_rows(spec, opened, max_row_bytes)
    if isinstance(spec, Warc):
        return _page_rows(spec, stream, max_row_bytes)
    return _table_rows(spec, stream, name, max_row_bytes)


def check_columns(wanted: Sequence[str], there: Sequence[str], name: str) -> None:
    """Raises InputError where a file lacks a column that the job names."""
    for column in wanted:
        if column not in there:
            fix = f"The file has: {', '.join(there)}. Correct text_columns in the job file."
            raise InputError(f"There is no column {column}", where=name, fix=fix)


# -- lines -------------------------------------------------------------------------------------------------------------


def _lines(stream: IO[bytes], max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Number and bytes of each line; None for one that is too long, which is skipped without holding it."""
    number = 0
    while line := stream.readline(max_bytes + 1):
        number += 1
        if len(line) <= max_bytes:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(1 << 20)
        yield number, None


def _too_long(number: int, max_bytes: int) -> BadRow:
    return BadRow(number, "row_too_long", f"more than {max_bytes:,} bytes (max_row_bytes)")


def _decoded(number: int, line: bytes) -> str | BadRow:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        around = line[max(0, error.start - 40) : error.start + 40].decode("utf-8", "replace")
        return BadRow(number, "invalid_utf8", f"byte {error.start} of the row, near: {around}")


# -- JSON lines --------------------------------------------------------------------------------------------------------


def _json_rows(spec: JsonLines, opened: Input, max_row_bytes: int) -> Iterator[Row | BadRow]:
    for number, line in _lines(opened.stream, max_row_bytes):
        if line is None:
            yield _too_long(number, max_row_bytes)
        elif line.strip():
            yield _json_row(spec, number, line)


def _json_row(spec: JsonLines, number: int, line: bytes) -> Row | BadRow:
    text = _decoded(number, line)
    if isinstance(text, BadRow):
        return text
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return BadRow(number, "malformed_json", f"{error}: {text[:EXCERPT_CHARACTERS].strip()}")
    if not isinstance(values, dict):
        return BadRow(number, "not_an_object", text[:EXCERPT_CHARACTERS].strip())
    return _texts(number, values, spec.text_columns)


def _texts(number: int, values: dict[str, Any], columns: Sequence[str]) -> Row | BadRow:
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
    return Row(number, "\n".join(found))


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _csv_rows(spec: Csv, opened: Input, name: str, max_row_bytes: int) -> Iterator[Row | BadRow]:
    csv.field_size_limit(max_row_bytes)
    # Bytes that are not UTF-8 pass as surrogates, so that only the record that has them is bad.
    lines = (
        _TOO_LONG if line is None else line.decode("utf-8", "surrogateescape")
        for _, line in _lines(opened.stream, max_row_bytes)
    )
    reader = csv.reader(lines, strict=True)
    header = [column.removeprefix("\ufeff") for column in next(reader, [])]
    if header:
        check_columns(spec.text_columns, header, name)
    number = 0
    while True:
        number += 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(number, "malformed_csv", str(error))
            continue
        if any(_TOO_LONG in field for field in record):
            yield _too_long(number, max_row_bytes)
        else:
            yield _csv_row(spec, number, header, record)


def _csv_row(spec: Csv, number: int, header: list[str], record: list[str]) -> Row | BadRow:
    if len(record) != len(header):
        return BadRow(number, "wrong_number_of_fields", f"{len(record)} fields under {len(header)} columns")
    row = _texts(number, dict(zip(header, record, strict=True)), spec.text_columns)
    if isinstance(row, Row) and not row.text.isascii() and _has_surrogate(row.text):
        return BadRow(number, "invalid_utf8", row.text.encode("utf-8", "replace").decode()[:EXCERPT_CHARACTERS])
    return row


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


# -- plain text --------------------------------------------------------------------------------------------------------


def _text_rows(spec: PlainText, opened: Input, max_row_bytes: int) -> Iterator[Row | BadRow]:
    pieces: Iterator[tuple[int, bytes | None]]
    if spec.documents == "line":
        pieces = _lines(opened.stream, max_row_bytes)
    elif spec.documents == "paragraph":
        pieces = _paragraphs(opened.stream, max_row_bytes)
    else:
        pieces = _whole(opened.stream, max_row_bytes)
    for number, piece in pieces:
        if piece is None:
            yield _too_long(number, max_row_bytes)
        elif piece.strip():
            text = _decoded(number, piece)
            yield Row(number, text) if isinstance(text, str) else text


def _whole(stream: IO[bytes], max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    content = stream.read(max_bytes + 1)
    if content:
        yield 1, content if len(content) <= max_bytes else None


def _paragraphs(stream: IO[bytes], max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Number of its first line and bytes of each paragraph."""
    begin, size, lines = 0, 0, list[bytes]()
    for number, line in _lines(stream, max_bytes):
        if line is not None and not line.strip():
            if begin:
                yield begin, b"".join(lines) if size <= max_bytes else None
            begin, size, lines = 0, 0, []
            continue
        begin = begin or number
        size += max_bytes + 1 if line is None else len(line)
        if size <= max_bytes and line is not None:
            lines.append(line)
    if begin:
        yield begin, b"".join(lines) if size <= max_bytes else None


# -- tables and archives -----------------------------------------------------------------------------------------------


def _table_rows(
    spec: JsonArray | Parquet | Arrow, stream: IO[bytes], name: str, max_row_bytes: int
) -> Iterator[Row | BadRow]:
    for number, record in enumerate(_records(spec, stream, name), start=1):
        if not isinstance(record, dict):
            yield BadRow(number, "not_an_object", str(record)[:EXCERPT_CHARACTERS])
            continue
        row = _texts(number, record, spec.text_columns)
        is_long = isinstance(row, Row) and len(row.text) * 4 > max_row_bytes and len(row.text.encode()) > max_row_bytes
        yield _too_long(number, max_row_bytes) if is_long else row


def _records(spec: JsonArray | Parquet | Arrow, stream: IO[bytes], name: str) -> Iterator[Any]:
    if isinstance(spec, JsonArray):
        yield from tables.json_records(stream)
    elif isinstance(spec, Parquet):
        check_columns(spec.text_columns, tables.parquet_columns(stream), name)
        yield from tables.parquet_records(stream, spec.text_columns)
    else:
        for batch in tables.arrow_batches(stream):
            check_columns(spec.text_columns, batch.schema.names, name)
            yield from tables.batch_records(batch, spec.text_columns)


def _page_rows(spec: Warc, stream: IO[bytes], max_row_bytes: int) -> Iterator[Row | BadRow]:
    from rayloom.data.warc import pages

    for page in pages(stream, spec.main_content_only, max_row_bytes):
        yield _too_long(page.number, max_row_bytes) if page.too_long else Row(page.number, page.text, page.drop)
