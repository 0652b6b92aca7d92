"""Rows out of CSV files, one record at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO

from rayloom.data.reading.line_rows import lines_of
from rayloom.data.reading.record import check_columns, row_of, wanted_columns
from rayloom.data.reading.row import EXCERPT_CHARACTERS, BadRow, Row, too_long
from rayloom.specs.cleaning.text_sources import Csv

_TOO_LONG = "\x00a line that was too long to be read\x00"


def csv_rows(spec: Csv, stream: IO[bytes], name: str, max_row_bytes: int) -> Iterator[Row | BadRow]:
    csv.field_size_limit(max_row_bytes)
    # Bytes that are not UTF-8 pass as surrogates, so that only the record that has them is bad.
    lines = (
        _TOO_LONG if line is None else line.decode("utf-8", "surrogateescape")
        for _, line in lines_of(stream, max_row_bytes)
    )
    reader = csv.reader(lines, strict=True)
    header = [column.removeprefix("\ufeff") for column in next(reader, [])]
    if header:
        check_columns(wanted_columns(spec), header, name)
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
            yield too_long(number, max_row_bytes)
        else:
            yield _csv_row(spec, number, header, record)


def _csv_row(spec: Csv, number: int, header: list[str], record: list[str]) -> Row | BadRow:
    if len(record) != len(header):
        return BadRow(number, "wrong_number_of_fields", f"{len(record)} fields under {len(header)} columns")
    row = row_of(number, dict(zip(header, record, strict=True)), spec)
    if isinstance(row, Row) and _has_surrogate(everything := "\n".join(record)):
        return BadRow(number, "invalid_utf8", everything.encode("utf-8", "replace").decode()[:EXCERPT_CHARACTERS])
    return row


def _has_surrogate(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
