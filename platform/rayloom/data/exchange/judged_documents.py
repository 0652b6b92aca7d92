"""Arrow files of judged documents, which passes read in small batches; and JSON lines for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayloom.data.exchange.scratch import write_whole
from rayloom.data.text_views import Folded

_DOCUMENTS = pa.schema(
    [
        ("id", pa.uint64()), ("text", pa.large_string()), ("split_hash", pa.uint64()), ("label", pa.string()),
        ("columns", pa.large_string()),
    ]
)  # fmt: skip


def write_documents(
    path: Path,
    ids: Sequence[int],
    texts: Sequence[str],
    folded: Sequence[Folded],
    labels: Sequence[str],
    columns: Sequence[str],
) -> None:
    """Writes one file of documents. `columns`: each document's kept columns as JSON, or an empty text."""
    hashes = np.frombuffer(b"".join(one.exact_key for one in folded), "<u8").reshape(-1, 2)[:, 1]
    values = (ids, texts, hashes, labels, columns)
    _write_table(path, pa.table(dict(zip(_DOCUMENTS.names, values, strict=True)), schema=_DOCUMENTS))


def _write_table(path: Path, table: pa.Table) -> None:
    """Writes one compressed Arrow file, in small batches so that a reader needs little memory."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")

    def write(file: Any) -> None:
        with pa.ipc.new_file(file, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=1024)

    write_whole(path, write)


def read_documents(path: Path, further: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Batches of the columns `id`, `text`, `split_hash` and `further` (`label`, `columns`)."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            yield {
                "id": batch.column("id").to_numpy(),
                "text": batch.column("text").to_pylist(),
                "split_hash": batch.column("split_hash").to_numpy(),
                **{name: batch.column(name).to_pylist() for name in further},
            }


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes JSON lines; writes no file if there are no rows."""
    if rows:
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        write_whole(path, lambda file: file.write(text.encode("utf-8", "replace")))
