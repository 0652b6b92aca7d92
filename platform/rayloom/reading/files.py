"""Records of a file of any supported format, and the rows of several files for training and prediction."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rayloom.errors import InputError
from rayloom.reading.column_names import RenamedColumns
from rayloom.reading.compressed import without_compression
from rayloom.reading.csv_records import csv_records
from rayloom.reading.encoded_text import HEAD_BYTES, binary_kind, utf8_text
from rayloom.reading.files_in_place import FileInPlace
from rayloom.reading.json_array import json_array_records
from rayloom.reading.lines import json_line_records, parsed_line, text_records
from rayloom.reading.records import TABLES, BadRow, DamagedFileError, FileFormat, FileRecord, ReadOptions
from rayloom.reading.source_stream import SourceStream
from rayloom.specs.row_files import RowFiles, matches

_FORMATS: dict[str, FileFormat] = {name: name for name in (*TABLES, "text", "warc", "conll")}
_FORMATS |= {"ndjson": "jsonl", "pq": "parquet", "ipc": "arrow", "feather": "arrow", "txt": "text", "tab": "tsv"}


def format_of(name: str) -> FileFormat | None:
    """The format that a file's name says, ignoring compression; None if it says none."""
    return _FORMATS.get(PurePosixPath(without_compression(name)).suffix.lower().removeprefix("."))


def read_file(path: str | Path, options: ReadOptions) -> Iterator[FileRecord | BadRow]:
    """Every row of a file on disk or at a URI, in order. Raises InputError if it is missing or damaged."""
    with closing(SourceStream(path)) as source:
        yield from read_stream(source, options, str(path))


def read_stream(source: SourceStream, options: ReadOptions, where: str) -> Iterator[FileRecord | BadRow]:
    """Like `read_file` for an open file; `where`: its name in errors."""
    from rayloom.reading.table_records import DAMAGED_TABLE

    number = 0
    columns = RenamedColumns(options)
    try:
        for row in _rows(source, columns.own(options), where):
            number = row.number
            yield columns.renamed(row)
    except (DamagedFileError, OSError, *DAMAGED_TABLE) as error:
        if not options.is_damage_allowed:
            behind = f"behind row {number:,}" if number else "at its beginning"
            fix = "Mend or fetch it again, correct the format, or name it with damaged_files to take what can be read."
            raise InputError(f"This file is damaged {behind}: {error}", where=where, fix=fix) from None
        yield BadRow(number + 1, "damaged_file", f"the rest of the file cannot be read: {error}")


def _rows(source: SourceStream, options: ReadOptions, where: str) -> Iterator[FileRecord | BadRow]:
    if options.format == "by_content":
        options = replace(options, format=_format_by_content(source.content.peek(HEAD_BYTES)))
    if options.format in ("parquet", "arrow"):
        from rayloom.reading.table_records import table_records

        return table_records(source.seekable_content(), options, where)
    if options.format == "warc":
        from rayloom.reading.warc_pages import page_records

        return page_records(source.content, options)
    text = utf8_text(source.content, options.encoding)
    if options.format in ("csv", "tsv"):
        return csv_records(text, options, where)
    if options.format in ("json", "jsonl"):
        is_array = text.peek(1).lstrip().startswith(b"[")
        return json_array_records(text, options) if is_array else json_line_records(text, options)
    if options.format == "conll":
        from rayloom.reading.lines import conll_records

        return conll_records(text, options)
    return text_records(text, options)


def _format_by_content(head: bytes) -> FileFormat:
    for beginning, known in ((b"PAR1", "parquet"), (b"ARROW1", "arrow")):
        if head.startswith(beginning):
            return _FORMATS[known]
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b"{", b"[")):
        return "json"
    endings = ", ".join(f".{ending}" for ending in _FORMATS if _FORMATS[ending] in TABLES)
    kind = binary_kind(head) or "of no known format"
    raise DamagedFileError(f"it is {kind}; names of files that hold rows end in {endings}")


# Rows of files, with the format from the file name, for training and prediction.

RowFile = Path | FileInPlace
"""A file on this machine's disk, or at a URI."""
NamedRow = tuple[str, Any]
"""Location (`file.json row 7`), and values or a BadRow."""


def table_rows(files: Sequence[RowFile], how: RowFiles) -> Iterator[NamedRow]:
    """Rows of JSON lines, JSON arrays, CSV, TSV, Parquet and Arrow, recognised by name or content.

    Raises InputError if a file has another format or is damaged.
    """
    for file in files:
        yield from named_rows(file, how, ReadOptions(_table_format(file)))


def _table_format(file: RowFile) -> FileFormat:
    named = format_of(file.name)
    return named if named in TABLES else "by_content"


def text_or_table_rows(files: Sequence[RowFile], how: RowFiles, limit: int | None = None) -> Iterator[NamedRow]:
    """Rows of files whose names say a table format; of any other file, every line that is not blank as `text`.

    Of more than `limit` rows so many, in order and at equal distances: data sets are often sorted by label or source.
    """
    if limit is None:
        yield from _rows_of_all(files, how)
        return
    total = sum(1 for _ in _rows_of_all(files, how))
    for number, row in enumerate(_rows_of_all(files, how)):
        if total <= limit or number * limit // total != (number + 1) * limit // total:
            yield row


def _rows_of_all(files: Sequence[RowFile], how: RowFiles) -> Iterator[NamedRow]:
    for file in files:
        named = format_of(file.name)
        if named in TABLES:
            yield from named_rows(file, how, ReadOptions(named))
            continue
        for origin, values in named_rows(file, how, ReadOptions("text")):
            yield origin, values if isinstance(values, BadRow) else {"text": values["text"].strip()}


def named_rows(file: RowFile, how: RowFiles, options: ReadOptions) -> Iterator[NamedRow]:
    """Rows of one file, read with `options`, but with the encoding and the tolerance of damage that `how` says."""
    units: dict[FileFormat, str] = {"text": options.unit, "conll": "sentence"}
    unit = units.get(options.format, "row")
    for row in read_file(_place(file), _as_given(file, how, options)):
        yield f"{file.name} {unit} {row.number}", row if isinstance(row, BadRow) else row.values


def _as_given(file: RowFile, how: RowFiles, options: ReadOptions) -> ReadOptions:
    damaged = any(matches(file.name, pattern) for pattern in how.damaged_files)
    names = {} if isinstance(file, Path) else file.class_names
    return replace(options, encoding=how.encoding, is_damage_allowed=damaged, columns=how.columns, class_names=names)


def _place(file: RowFile) -> str | Path:
    return file if isinstance(file, Path) else file.uri


# The same rows in blocks, of which each can be read on by another process.

BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 1024


@dataclass(frozen=True)
class RowBlock:
    """Rows of a file that follow each other; JSON lines are not parsed yet, which takes longer than to find them."""

    file: str
    """The file's name."""
    rows: tuple[tuple[int, Any] | BadRow, ...]
    """The number of each row in its file, and its values or its line."""
    bytes_read: int
    """Of the file as it lies there, since the block before it."""
    options: ReadOptions

    def named(self) -> Iterator[NamedRow]:
        """The rows as `table_rows` gives them."""
        columns = RenamedColumns(self.options)
        for found in self.rows:
            if isinstance(found, BadRow):
                yield f"{self.file} row {found.number}", found
                continue
            number, values = found
            is_line = isinstance(values, bytes)
            row = columns.renamed(parsed_line(number, values)) if is_line else FileRecord(number, values)
            yield f"{self.file} row {number}", row if isinstance(row, BadRow) else row.values


def table_blocks(files: Sequence[RowFile], how: RowFiles) -> Iterator[RowBlock]:
    """The rows of `table_rows` in blocks of at most BLOCK_ROWS, and of lines of about BLOCK_BYTES in all.

    Raises InputError as `table_rows` does.
    """
    for file in files:
        with closing(SourceStream(_place(file))) as source:
            options = _as_given(file, how, ReadOptions(_table_format(file), is_parsed=False))
            rows: list[tuple[int, Any] | BadRow] = []
            size, before = 0, 0
            for row in read_stream(source, options, str(_place(file))):
                is_line = isinstance(row, FileRecord) and isinstance(row.values, bytes)
                rows.append(row if isinstance(row, BadRow) else (row.number, row.values))
                size += len(row.values) if is_line else BLOCK_BYTES // BLOCK_ROWS  # type: ignore[union-attr]
                if size >= BLOCK_BYTES:
                    yield RowBlock(file.name, tuple(rows), source.bytes_read - before, options)
                    rows, size, before = [], 0, source.bytes_read
            if rows:
                yield RowBlock(file.name, tuple(rows), source.bytes_read - before, options)
