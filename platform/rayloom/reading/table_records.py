"""Records from Parquet and Arrow files, in batches of RECORDS_AT_ONCE."""

from __future__ import annotations

import datetime
import decimal
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayloom.reading.records import BadRow, FileRecord, ReadOptions, check_columns

RECORDS_AT_ONCE = 1024
DAMAGED_TABLE = (pa.ArrowException,)
"""Exceptions raised by reading a damaged Parquet or Arrow file."""
_ARROW_FILE_MAGIC = b"ARROW1"


def table_records(content: IO[bytes], options: ReadOptions, where: str) -> Iterator[FileRecord | BadRow]:
    batches = _parquet(content, options, where) if options.format == "parquet" else _arrow(content, options, where)
    number = 0
    for batch in batches:
        for begin in range(0, batch.num_rows, RECORDS_AT_ONCE):
            part = batch.slice(begin, RECORDS_AT_ONCE)
            yield from _records(part, number + 1)
            number += part.num_rows


def _parquet(content: IO[bytes], options: ReadOptions, where: str) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(content)
    check_columns(options, list(file.schema_arrow.names), where)
    yield from file.iter_batches(RECORDS_AT_ONCE, columns=_read_columns(options, file.schema_arrow.names))


def _arrow(content: IO[bytes], options: ReadOptions, where: str) -> Iterator[pa.RecordBatch]:
    """The record batches of an Arrow file, in the file format (with a footer) or the stream format."""
    magic = content.read(len(_ARROW_FILE_MAGIC))
    content.seek(0)
    if magic == _ARROW_FILE_MAGIC:
        with pa.ipc.open_file(content) as reader:
            batches: Iterator[pa.RecordBatch] = map(reader.get_batch, range(reader.num_record_batches))
            yield from _selected(batches, reader.schema, options, where)
    else:
        with pa.ipc.open_stream(content) as reader:
            yield from _selected(iter(reader), reader.schema, options, where)


def _selected(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema, options: ReadOptions, where: str
) -> Iterator[pa.RecordBatch]:
    check_columns(options, list(schema.names), where)
    columns = _read_columns(options, schema.names)
    return batches if columns is None else (batch.select(columns) for batch in batches)


def _read_columns(options: ReadOptions, present: Sequence[str]) -> list[str] | None:
    if options.optional_columns is None:
        return None
    further = (name for name in options.optional_columns if name in present)
    return list(dict.fromkeys((*options.required_columns, *further)))


def _records(batch: pa.RecordBatch, first: int) -> Iterator[FileRecord | BadRow]:
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):  # a text that is not UTF-8, a date that Python does not have
        yield from _one_by_one(batch, first)
        return
    is_plain = all(_is_plain(column.type) for column in batch.schema)
    filled_in = _filled_in(batch.schema)
    for number, row in zip(itertools.count(first), rows, strict=False):
        row |= {name: _without_nulls(row[name]) for name in filled_in}
        yield FileRecord(number, row if is_plain else _plain(row))


def _one_by_one(batch: pa.RecordBatch, first: int) -> Iterator[FileRecord | BadRow]:
    for index in range(batch.num_rows):
        try:
            (row,) = batch.slice(index, 1).to_pylist()
            row |= {name: _without_nulls(row[name]) for name in _filled_in(batch.schema)}
        except UnicodeDecodeError as error:
            yield BadRow(first + index, "invalid_utf8", f"a text is not UTF-8: {error.reason} at byte {error.start}")
        except (ValueError, OverflowError) as error:
            yield BadRow(first + index, "unreadable_value", str(error))
        else:
            yield FileRecord(first + index, _plain(row))


def _filled_in(schema: pa.Schema) -> list[str]:
    """Columns of objects that hold objects, such as calls of tools with their arguments.

    A table gives all of them the same fields, and null where one lacks a field: `{place: Bern}` of one call becomes
    `{place: Bern, zone: null}` if another call has a zone. Such nulls are left out.
    """
    return [field.name for field in schema if _struct_depth(field.type) > 1]


def _struct_depth(kind: pa.DataType) -> int:
    if not pa.types.is_nested(kind):
        return 0
    inside = max((_struct_depth(kind.field(index).type) for index in range(kind.num_fields)), default=0)
    return inside + (1 if pa.types.is_struct(kind) else 0)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _is_plain(kind: pa.DataType) -> bool:
    """Whether all values of the type are JSON values already."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_struct(kind):
        return all(_is_plain(kind.field(index).type) for index in range(kind.num_fields))
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    return any(test(kind) for test in tests)


def _plain(value: Any) -> Any:
    """The value as a JSON value: NaN and infinities become null, dates and times ISO 8601, bytes UTF-8 text. Bytes that
    are not UTF-8 stay bytes."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return str(value) if isinstance(value, datetime.timedelta) else value
