"""Judged documents as Arrow files, which passes read in small batches; and JSON lines for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rayloom.text.text_views import Folded

_DOCUMENTS = pa.schema(
    [
        ("id", pa.uint64()), ("text", pa.large_string()), ("split_hash", pa.uint64()), ("label", pa.string()),
        ("columns", pa.large_string()),
    ]
)  # fmt: skip


def documents_file(
    ids: Sequence[int],
    texts: Sequence[str],
    folded: Sequence[Folded],
    labels: Sequence[str],
    columns: Sequence[str],
) -> bytes:
    """A compressed Arrow file of documents, in small batches so that a reader needs little memory.

    `columns`: each document's kept columns as JSON, or an empty text.
    """
    hashes = np.frombuffer(b"".join(one.exact_key for one in folded), "<u8").reshape(-1, 2)[:, 1]
    values = (ids, texts, hashes, labels, columns)
    table = pa.table(dict(zip(_DOCUMENTS.names, values, strict=True)), schema=_DOCUMENTS)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table, max_chunksize=1024)
    return bytes(sink.getvalue())


def read_documents(content: bytes, further: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Batches of the columns `id`, `text`, `split_hash` and `further` (`label`, `columns`)."""
    with pa.ipc.open_file(pa.py_buffer(content)) as reader:
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            yield {
                "id": batch.column("id").to_numpy(),
                "text": batch.column("text").to_pylist(),
                "split_hash": batch.column("split_hash").to_numpy(),
                **{name: batch.column(name).to_pylist() for name in further},
            }


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    """The rows as JSON lines."""
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    return text.encode("utf-8", "replace")
