"""Records out of JSON arrays, Parquet and Arrow files, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

RECORDS_AT_ONCE = 1024
DAMAGED_TABLE = (pa.ArrowInvalid, ijson.JSONError)
"""What reading a damaged file of these kinds raises."""
_ARROW_FILE_MAGIC = b"ARROW1"


def json_records(stream: IO[bytes]) -> Iterator[Any]:
    """The elements of one JSON array, without holding the array."""
    yield from ijson.items(stream, "item", use_float=True)


def parquet_columns(stream: IO[bytes]) -> list[str]:
    return list(pq.ParquetFile(stream).schema_arrow.names)


def parquet_records(stream: IO[bytes], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(stream).iter_batches(RECORDS_AT_ONCE, columns=list(columns)):
        yield from batch.to_pylist()


def arrow_batches(stream: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """The record batches of an Arrow file, with a footer or without."""
    magic = stream.read(len(_ARROW_FILE_MAGIC))
    stream.seek(0)
    if magic == _ARROW_FILE_MAGIC:
        with pa.ipc.open_file(stream) as reader:
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)
    else:
        with pa.ipc.open_stream(stream) as reader:
            yield from reader


def batch_records(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for begin in range(0, batch.num_rows, RECORDS_AT_ONCE):
        yield from batch.slice(begin, RECORDS_AT_ONCE).select(list(columns)).to_pylist()
