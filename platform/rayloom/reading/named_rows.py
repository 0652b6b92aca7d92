"""Rows of files, with the format from the file name, for training and prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rayloom.reading.files import format_of, read_file
from rayloom.reading.files_in_place import FileInPlace
from rayloom.reading.records import TABLES, BadRow, FileFormat, ReadOptions
from rayloom.specs.row_files import RowFiles, matches

RowFile = Path | FileInPlace
"""A file on this machine's disk, or at a URI."""
NamedRow = tuple[str, Any]
"""Location (`file.json row 7`), and values or a BadRow."""


def table_rows(files: Sequence[RowFile], how: RowFiles) -> Iterator[NamedRow]:
    """Rows of JSON lines, JSON arrays, CSV, TSV, Parquet and Arrow, recognised by name or content.

    Raises InputError if a file has another format or is damaged.
    """
    for file in files:
        named = format_of(file.name)
        yield from named_rows(file, how, ReadOptions(named if named in TABLES else "by_content"))


def text_or_table_rows(files: Sequence[RowFile], how: RowFiles) -> Iterator[NamedRow]:
    """Rows of files whose names say a table format; of any other file, every line that is not blank as `text`."""
    for file in files:
        named = format_of(file.name)
        if named in TABLES:
            yield from named_rows(file, how, ReadOptions(named))
            continue
        for origin, values in named_rows(file, how, ReadOptions("text")):
            yield origin, values if isinstance(values, BadRow) else {"text": values["text"].strip()}


def named_rows(file: RowFile, how: RowFiles, options: ReadOptions) -> Iterator[NamedRow]:
    """Rows of one file, read with `options`, but with the encoding and the tolerance of damage that `how` says."""
    damaged = any(matches(file.name, pattern) for pattern in how.damaged_files)
    units: dict[FileFormat, str] = {"text": options.unit, "conll": "sentence"}
    unit = units.get(options.format, "row")
    given = ReadOptions(options.format, how.encoding, unit=options.unit, is_damage_allowed=damaged)
    for row in read_file(file if isinstance(file, Path) else file.uri, given):
        yield f"{file.name} {unit} {row.number}", row if isinstance(row, BadRow) else row.values
