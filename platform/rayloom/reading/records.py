"""The results of reading a file (records and bad rows), and the options of reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rayloom.errors import InputError

EXCERPT_CHARACTERS = 200
MAX_ROW_BYTES = 64 << 20
MAX_DEPTH = 100
"""Nesting of lists and objects in JSON."""

FileFormat = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow", "by_content", "text", "warc", "conll"]
TABLES: tuple[FileFormat, ...] = ("jsonl", "json", "csv", "tsv", "parquet", "arrow")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One row: values by column; for JSON, any value."""

    number: int
    """From 1 in each file: the line number in JSON lines and text, otherwise the number of the row."""
    values: Any


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read; rows are counted by `reason`. Number 0: the whole file."""

    number: int
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading a file."""

    format: FileFormat
    encoding: str | None = None
    """The encoding of text that is not UTF-8. A byte order mark in the file takes precedence."""
    max_row_bytes: int = MAX_ROW_BYTES
    required_columns: tuple[str, ...] = ()
    """If a table lacks one of them, InputError is raised."""
    optional_columns: tuple[str, ...] | None = None
    """Columns also read from Parquet and Arrow files that have them. None: all columns."""
    unit: Literal["file", "paragraph", "line"] = "line"
    """The part of a text file that is one record."""
    delimiter: str | None = None
    """Delimiter between fields of CSV and TSV. None: a comma in CSV, a tab in TSV."""
    is_quoted: bool | None = None
    """Whether fields can be in quotation marks. None: yes in CSV, no in TSV, where quotation marks are text."""
    main_content_only: bool = True
    """Whether web pages are read without navigation and footers."""
    is_parsed: bool = True
    """Whether JSON lines become values; otherwise they stay `bytes`, for another process to parse."""
    is_damage_allowed: bool = False
    """Whether a damaged file ends with a BadRow (`damaged_file`) instead of an error."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns under other names: a column's own name by the new one; a dot in it reaches into an object."""
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the classes of columns (by their own name) that hold their numbers, or lists of them."""


class DamagedFileError(OSError):
    """The rest of a file cannot be read; the text says why. It is not raised outside this package.

    It is an OSError because libraries that call back for bytes pass on no other exceptions."""


def row_too_long(number: int, max_bytes: int) -> BadRow:
    return BadRow(number, "row_too_long", f"more than {max_bytes:,} bytes (max_row_bytes)")


def check_columns(options: ReadOptions, present: list[str], where: str) -> None:
    """Raises InputError if a table has a column twice or lacks a required one."""
    twice = sorted({column for column in present if column and present.count(column) > 1})
    if twice:
        fix = "Rename one of them, or leave it out."
        raise InputError(f"The column {', '.join(twice)} stands there twice", where=where, fix=fix)
    for column in options.required_columns:
        if column not in present:
            fix = f"The file has: {', '.join(present)}. Correct the columns in the job file."
            raise InputError(f"There is no column {column}", where=where, fix=fix)
