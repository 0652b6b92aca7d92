"""Raw rows on their way from the task that reads a file to the tasks that judge them, a few megabytes at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rayloom.data.row import BadRow, Row


@dataclass(frozen=True)
class ChunkName:
    """Which chunk of which file."""

    file: int
    number: int

    def __str__(self) -> str:
        return f"{self.file:06d}-{self.number:06d}"


@dataclass
class RawChunk:
    """Consecutive rows of one file, good and bad."""

    name: ChunkName
    rows: list[Row] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)
    text_bytes: int = 0
    bytes_read: int = 0
    """Taken off the disk since the chunk before, for the progress bar."""

    def as_ray_row(self) -> dict[str, Any]:
        """Plain columns, as Ray Data carries them. NUL separates texts and is cut out of them, as normalising
        would do; half of a surrogate pair, which no encoding has, becomes `?`."""
        return {
            "file": self.name.file,
            "number": self.name.number,
            "bytes_read": self.bytes_read,
            "row_numbers": json.dumps([row.number for row in self.rows]),
            "row_facts": json.dumps([[row.drop, row.label, row.columns] for row in self.rows], default=str),
            "texts": b"\0".join(row.text.replace("\0", "").encode("utf-8", "replace") for row in self.rows),
            "bad_rows": json.dumps([asdict(row) for row in self.bad_rows]),
        }

    @classmethod
    def from_ray_row(cls, row: dict[str, Any]) -> RawChunk:
        numbers = json.loads(row["row_numbers"])
        texts = row["texts"].split(b"\0") if numbers else []
        known = zip(numbers, texts, json.loads(row["row_facts"]), strict=True)
        rows = [Row(number, text.decode(), *facts) for number, text, facts in known]
        bad_rows = [BadRow(**bad) for bad in json.loads(row["bad_rows"])]
        name = ChunkName(int(row["file"]), int(row["number"]))
        return cls(name, rows, bad_rows, len(row["texts"]), int(row["bytes_read"]))


def chunked(rows: Iterable[Row | BadRow], file: int, chunk_bytes: int) -> Iterator[RawChunk]:
    """Chunks of about `chunk_bytes` of text. Where they are cut has no influence on any result."""
    chunk = RawChunk(ChunkName(file, 0))
    for row in rows:
        if isinstance(row, BadRow):
            chunk.bad_rows.append(row)
            chunk.text_bytes += len(row.detail)
        else:
            chunk.rows.append(row)
            chunk.text_bytes += len(row.text)
        if chunk.text_bytes >= chunk_bytes:
            yield chunk
            chunk = RawChunk(ChunkName(file, chunk.name.number + 1))
    if chunk.rows or chunk.bad_rows:
        yield chunk
