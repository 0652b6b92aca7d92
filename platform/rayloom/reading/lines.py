"""Records from lines: lines, paragraphs and whole texts, JSON lines, and CoNLL files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from rayloom.reading.json_array import json_record
from rayloom.reading.records import BadRow, DamagedFileError, FileRecord, ReadOptions, row_too_long

Piece = tuple[int, bytes | None]
"""Number of its first line, and its bytes; None if it is too long, which is skipped without being held in memory."""


def lines_of(text: IO[bytes], max_bytes: int) -> Iterator[Piece]:
    number = 0
    while line := text.readline(max_bytes + 1):
        number += 1
        if len(line) <= max_bytes:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = text.readline(1 << 20)
        yield number, None


def json_line_records(text: IO[bytes], options: ReadOptions) -> Iterator[FileRecord | BadRow]:
    """A record for each line. Raises DamagedFileError if the file begins with an object over several lines."""
    for number, line in lines_of(text, options.max_row_bytes):
        if number == 1 and line is not None and line.strip() == b"{":
            raise DamagedFileError("it begins with an object over several lines; rows are one a line, or a list")
        if line is None:
            yield row_too_long(number, options.max_row_bytes)
        elif line.strip():
            yield parsed_line(number, line) if options.is_parsed else FileRecord(number, line)


def parsed_line(number: int, line: bytes) -> FileRecord | BadRow:
    decoded = decoded_row(number, line)
    return json_record(number, decoded) if isinstance(decoded, str) else decoded


def text_records(text: IO[bytes], options: ReadOptions) -> Iterator[FileRecord | BadRow]:
    """A record with `text` for every line, paragraph or file that is not blank."""
    pieces = {"line": lines_of, "paragraph": _paragraphs, "file": _whole}[options.unit]
    for number, piece in pieces(text, options.max_row_bytes):
        if piece is None:
            yield row_too_long(number, options.max_row_bytes)
        elif piece.strip():
            decoded = decoded_row(number, piece)
            yield FileRecord(number, {"text": decoded}) if isinstance(decoded, str) else decoded


def decoded_row(number: int, row: bytes) -> str | BadRow:
    try:
        return row.decode()
    except UnicodeDecodeError as error:
        around = row[max(0, error.start - 40) : error.start + 40].decode("utf-8", "replace").strip()
        detail = f"byte {error.start} is not UTF-8 (name the file's `encoding` if it has another one), near: {around}"
        return BadRow(number, "invalid_utf8", detail)


def _whole(text: IO[bytes], max_bytes: int) -> Iterator[Piece]:
    content = text.read(max_bytes + 1)
    if content:
        yield 1, content if len(content) <= max_bytes else None


def _paragraphs(text: IO[bytes], max_bytes: int) -> Iterator[Piece]:
    begin, size, lines = 0, 0, list[bytes]()
    for number, line in lines_of(text, max_bytes):
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


# CoNLL files as records: the words of each text and their tags.

_TAG = re.compile(r"O|[BIESLU]-\S+")
_DOCUMENT = "-DOCSTART-"


def conll_records(text: IO[bytes], options: ReadOptions) -> Iterator[FileRecord | BadRow]:
    """A record for each text with `words` and `tags`, the first and last fields of its lines; a blank line ends a text.

    Lines that begin a document (`-DOCSTART-`) or are comments (`# …`) are left out.
    """
    number, block = 0, list[str | BadRow]()
    for line_number, line in lines_of(text, options.max_row_bytes):
        decoded = row_too_long(line_number, options.max_row_bytes) if line is None else decoded_row(line_number, line)
        if isinstance(decoded, str) and not decoded.strip():
            if block:
                number += 1
                yield _text(number, block)
            block = []
        elif isinstance(decoded, BadRow) or not _is_left_out(decoded):
            block.append(decoded)
    if block:
        yield _text(number + 1, block)


def _is_left_out(line: str) -> bool:
    fields = line.split()
    return fields[0] == _DOCUMENT or (line.startswith("#") and not _TAG.fullmatch(fields[-1]))


def _fields(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t") if "\t" in line else line.split()


def _text(number: int, block: list[str | BadRow]) -> FileRecord | BadRow:
    bad = next((line for line in block if isinstance(line, BadRow)), None)
    if bad is not None:
        return BadRow(number, bad.reason, f"line {bad.number}: {bad.detail}")
    rows = [_fields(line) for line in block if isinstance(line, str)]
    short = next((row for row in rows if len(row) < 2), None)
    if short is not None:
        return BadRow(number, "no_tag", f"a line has no tag: {' '.join(short)!r}")
    return FileRecord(number, {"words": [row[0] for row in rows], "tags": [row[-1].strip() for row in rows]})
