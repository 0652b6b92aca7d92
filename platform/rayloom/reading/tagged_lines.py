"""CoNLL files as records: the words of each text and their tags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from rayloom.reading.lines import decoded_row, lines_of
from rayloom.reading.records import BadRow, FileRecord, ReadOptions, row_too_long

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
