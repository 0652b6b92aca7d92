"""What comes out of a file: records, and rows that are none; and what a reader has to be told about the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rayloom.errors import InputError

EXCERPT_CHARACTERS = 200
MAX_ROW_BYTES = 64 << 20
MAX_DEPTH = 100
"""Lists and objects inside each other, in JSON."""

FileFormat = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow", "by_content", "text", "warc", "conll"]
TABLES: tuple[FileFormat, ...] = ("jsonl", "json", "csv", "tsv", "parquet", "arrow")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One row: its values by column; of JSON, whatever the row is."""

    number: int
    """From 1 in each file: the line of JSON lines and text; else its position among the rows."""
    values: Any


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read, for a `reason` that is counted; 0 stands for the whole file."""

    number: int
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class ReadOptions:
    """How a file is read."""

    format: FileFormat
    encoding: str | None = None
    """Of text that is not UTF-8. A byte order mark in the file counts more."""
    max_row_bytes: int = MAX_ROW_BYTES
    required_columns: tuple[str, ...] = ()
    """A table without one of them raises InputError."""
    optional_columns: tuple[str, ...] | None = None
    """Also read where a Parquet or Arrow file has them. None: all columns are read."""
    unit: Literal["file", "paragraph", "line"] = "line"
    """What is one record of a text."""
    delimiter: str | None = None
    """Between the fields of a table in text. None: a comma, in TSV a tab."""
    is_quoted: bool | None = None
    """Whether quotation marks set fields apart. None: in CSV they do, in TSV they are text."""
    main_content_only: bool = True
    """Of web pages, without navigation and footers."""
    is_damage_allowed: bool = False
    """A damaged file ends with a BadRow (`damaged_file`) instead of an error."""


class DamagedFileError(OSError):
    """A file cannot be read on; the text says why. It never leaves this room. (An OSError, because libraries that call
    back for bytes pass on those alone.)"""


def row_too_long(number: int, max_bytes: int) -> BadRow:
    return BadRow(number, "row_too_long", f"more than {max_bytes:,} bytes (max_row_bytes)")


def check_columns(options: ReadOptions, present: list[str], where: str) -> None:
    """Raises InputError where a table has a column twice, or lacks one that it must have."""
    twice = sorted({column for column in present if column and present.count(column) > 1})
    if twice:
        fix = "Rename one of them, or leave it out."
        raise InputError(f"The column {', '.join(twice)} stands there twice", where=where, fix=fix)
    for column in options.required_columns:
        if column not in present:
            fix = f"The file has: {', '.join(present)}. Correct the columns in the job file."
            raise InputError(f"There is no column {column}", where=where, fix=fix)
