"""Rows out of files of lines: JSON lines, and plain text by line, paragraph or file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO

from rayloom.data.reading.record import row_of
from rayloom.data.reading.row import EXCERPT_CHARACTERS, BadRow, Row, decoded, too_long
from rayloom.specs.cleaning.text_sources import JsonLines, PlainText


def lines_of(stream: IO[bytes], max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
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


# -- JSON lines --------------------------------------------------------------------------------------------------------


def json_rows(spec: JsonLines, stream: IO[bytes], max_row_bytes: int) -> Iterator[Row | BadRow]:
    for number, line in lines_of(stream, max_row_bytes):
        if line is None:
            yield too_long(number, max_row_bytes)
        elif line.strip():
            yield _json_row(spec, number, line)


def _json_row(spec: JsonLines, number: int, line: bytes) -> Row | BadRow:
    text = decoded(number, line)
    if isinstance(text, BadRow):
        return text
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return BadRow(number, "malformed_json", f"{error}: {text[:EXCERPT_CHARACTERS].strip()}")
    if not isinstance(values, dict):
        return BadRow(number, "not_an_object", text[:EXCERPT_CHARACTERS].strip())
    return row_of(number, values, spec)


# -- plain text --------------------------------------------------------------------------------------------------------


def text_rows(spec: PlainText, stream: IO[bytes], max_row_bytes: int) -> Iterator[Row | BadRow]:
    pieces: Iterator[tuple[int, bytes | None]]
    if spec.documents == "line":
        pieces = lines_of(stream, max_row_bytes)
    elif spec.documents == "paragraph":
        pieces = _paragraphs(stream, max_row_bytes)
    else:
        pieces = _whole(stream, max_row_bytes)
    for number, piece in pieces:
        if piece is None:
            yield too_long(number, max_row_bytes)
        elif piece.strip():
            text = decoded(number, piece)
            yield Row(number, text) if isinstance(text, str) else text


def _whole(stream: IO[bytes], max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    content = stream.read(max_bytes + 1)
    if content:
        yield 1, content if len(content) <= max_bytes else None


def _paragraphs(stream: IO[bytes], max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Number of its first line and bytes of each paragraph."""
    begin, size, lines = 0, 0, list[bytes]()
    for number, line in lines_of(stream, max_bytes):
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
