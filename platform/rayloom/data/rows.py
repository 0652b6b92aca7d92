"""Rows out of source files, one by one: a text, or why there is none. Nothing that is in a file goes missing silently.

Rows are numbered from 1 in each file: lines of JSON lines and of text, records of CSV below the header.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rayloom.data.compressed import DAMAGED, decompressed
from rayloom.errors import InputError
from rayloom.specs.clean import Csv, JsonLines, PlainText, TextSource

EXCERPT_CHARACTERS = 200
_TOO_LONG = "\x00a line that was too long to be read\x00"


@dataclass(frozen=True)
class Row:
    """A document as its file has it."""

    number: int
    text: str


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
    except DAMAGED as error:
        yield BadRow(number + 1, "damaged_file", f"the rest of the file cannot be read: {error}")
        return
    if not number:
        yield BadRow(0, "empty_file", "the file has no rows")


def _readers(source: TextSource, opened: Input, name: str, max_row_bytes: int) -> Iterator[Row | BadRow]:
    if isinstance(source.format, JsonLines):
        return _json_rows(source.format, opened, max_row_bytes)
    if isinstance(source.format, Csv):
        return _csv_rows(source.format, opened, name, max_row_bytes)
    return _text_rows(source.format, opened, max_row_bytes)


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
    return _titled(number, values, spec)


def _titled(number: int, values: dict[str, Any], spec: JsonLines | Csv) -> Row | BadRow:
    if spec.text_column not in values:
        return BadRow(number, "missing_column", f"no {spec.text_column}; the row has: {', '.join(values)}")
    text = values[spec.text_column]
    if text is None:
        return BadRow(number, "null_text", f"{spec.text_column} is null")
    if not isinstance(text, str):
        return BadRow(number, "not_text", f"{spec.text_column} is of type {type(text).__name__}")
    title = values.get(spec.title_column) if spec.title_column else None
    return Row(number, f"{title}\n{text}" if isinstance(title, str) and title.strip() else text)


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
    for column in (spec.text_column, spec.title_column):
        if header and column is not None and column not in header:
            fix = f"The file has: {', '.join(header)}. Correct text_column or title_column in the job file."
            raise InputError(f"There is no column {column}", where=name, fix=fix)
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
    row = _titled(number, dict(zip(header, record, strict=True)), spec)
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
