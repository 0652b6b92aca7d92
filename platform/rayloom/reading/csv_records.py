"""Records from text tables: CSV with quoted fields, and TSV without quotes."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import IO

from rayloom.errors import InputError
from rayloom.reading.records import (
    EXCERPT_CHARACTERS,
    BadRow,
    DamagedFileError,
    FileRecord,
    ReadOptions,
    check_columns,
    row_too_long,
)

csv.field_size_limit((1 << 31) - 1)  # `_Lines` limits the length of rows
LINE_PART_BYTES = 1 << 20
_INVALID = re.compile("[\udc80-\udcff]")


def csv_records(text: IO[bytes], options: ReadOptions, where: str) -> Iterator[FileRecord | BadRow]:
    """The rows after the header. Raises InputError if the header cannot be read, DamagedFileError if a quoted field
    does not end within `max_row_bytes`."""
    is_tsv = options.format == "tsv"
    delimiter = options.delimiter or ("\t" if is_tsv else ",")
    is_quoted = not is_tsv if options.is_quoted is None else options.is_quoted
    lines = _Lines(text, options.max_row_bytes, delimiter)
    rows = _quoted_rows(lines, delimiter) if is_quoted else _unquoted_rows(lines, delimiter)
    first = next(rows, None)
    if first is None:
        return
    if isinstance(first, BadRow):
        fix = "Correct it, or name the files that are tables with `files` of the source."
        raise InputError(f"The header of this table cannot be read: {first}", where=where, fix=fix)
    header = [column.strip() for column in first]
    check_columns(options, header, where)
    for number, row in enumerate(rows, start=1):
        yield BadRow(number, row.reason, row.detail) if isinstance(row, BadRow) else _record(number, header, row)


def _record(number: int, header: Sequence[str], row: list[str]) -> FileRecord | BadRow:
    if len(row) != len(header):
        what = f"{len(row)} fields under {len(header)} columns: {' | '.join(row)}"
        return BadRow(number, "wrong_number_of_fields", what[:EXCERPT_CHARACTERS].encode("utf-8", "replace").decode())
    return FileRecord(number, {column: field for column, field in zip(header, row, strict=True) if column})


def _unquoted_rows(lines: _Lines, delimiter: str) -> Iterator[list[str] | BadRow]:
    for line in lines:
        row = line.rstrip("\r\n").split(delimiter)
        if row != [""]:
            yield lines.bad_row(row) or row
        lines.begin_row()


def _quoted_rows(lines: _Lines, delimiter: str) -> Iterator[list[str] | BadRow]:
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    while True:
        lines.begin_row()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield lines.malformed(str(error))
            continue
        if row:
            yield lines.bad_row(row) or row


class _Lines:
    """Lines for the csv module; those of the current row are kept, so that they can be read again.

    Bytes that are not UTF-8 become surrogates, so that only the row that has them is bad. For a row that is too long,
    only delimiters, quotes and line ends are passed on, so that the csv module still finds its end.
    """

    def __init__(self, text: IO[bytes], max_row_bytes: int, delimiter: str) -> None:
        self._text, self._max_row_bytes = text, max_row_bytes
        self._no_marks = re.compile(b'[^"\\r\\n' + re.escape(delimiter.encode()) + b"]+")
        self._again = deque[bytes]()
        self._line_number = 0
        self.begin_row()

    def begin_row(self) -> None:
        self._held, self._held_bytes, self._is_too_long, self._marks_bytes = list[bytes](), 0, False, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._text.readline(self._max_row_bytes + 1)
        if not line:
            raise StopIteration
        self._line_number += 1
        self._held_bytes += len(line)
        if self._held_bytes <= self._max_row_bytes:
            self._held.append(line)
            return line.decode("utf-8", "surrogateescape")
        self._is_too_long, self._held = True, []
        return self._marks_of(line)

    def _marks_of(self, line: bytes) -> str:
        marks = [self._no_marks.sub(b"x", line)]
        while line and not line.endswith(b"\n"):
            line = self._text.readline(LINE_PART_BYTES)
            marks.append(self._no_marks.sub(b"x", line))
        self._marks_bytes += sum(map(len, marks))
        if self._marks_bytes > self._max_row_bytes:
            raise self._never_closes()
        return b"".join(marks).decode("utf-8", "replace")

    def malformed(self, error: str) -> BadRow:
        """The bad row made of the current row's first line; its other lines are read again as new rows. So an unclosed
        quotation mark spoils one line only."""
        if self._is_too_long:
            raise self._never_closes()
        first, *further = self._held
        self._again.extendleft(reversed(further))
        self._line_number -= len(further)
        what = f"a quotation mark does not close where its field ends ({error}), line {self._line_number}"
        if "new-line character" in error:
            what = f"a carriage return stands in a field without quotation marks, line {self._line_number}"
        return BadRow(0, "malformed_csv", f"{what}: {first.decode('utf-8', 'replace').strip()[:EXCERPT_CHARACTERS]}")

    def bad_row(self, row: Sequence[str]) -> BadRow | None:
        """The bad row if the row just read is too long or not UTF-8, else None."""
        if self._is_too_long:
            return row_too_long(0, self._max_row_bytes)
        if any(not field.isascii() and _INVALID.search(field) for field in row):
            around = "\n".join(row).encode("utf-8", "replace").decode()[:EXCERPT_CHARACTERS]
            detail = f"it has bytes that are not UTF-8 (name the file's `encoding` if it has another one): {around}"
            return BadRow(0, "invalid_utf8", detail)
        return None

    def _never_closes(self) -> DamagedFileError:
        where = f"line {self._line_number}"
        return DamagedFileError(f"a quotation mark takes up more than {self._max_row_bytes:,} bytes up to {where}")
