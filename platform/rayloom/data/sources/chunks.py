"""Chunks of raw rows, a few megabytes each, passed from reading tasks to judging tasks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rayloom.data.sources.document_rows import SourceRow
from rayloom.reading.records import BadRow


@dataclass(frozen=True)
class ChunkName:
    """The file in which a chunk begins, and the chunk's number among those that begin in this file."""

    file: int
    number: int

    def __str__(self) -> str:
        return f"{self.file:06d}-{self.number:06d}"

    @classmethod
    def of(cls, text: str) -> ChunkName:
        file, _, number = text.partition("-")
        return cls(int(file), int(number))


@dataclass
class RawChunk:
    """Consecutive rows and bad rows of one source, each with its file's number: of one large file or several small."""

    name: ChunkName
    rows: list[tuple[int, SourceRow]] = field(default_factory=list)
    bad_rows: list[tuple[int, BadRow]] = field(default_factory=list)
    text_bytes: int = 0
    bytes_read: int = 0
    """Bytes read from files since the previous chunk, for the progress bar."""

    def as_ray_row(self) -> dict[str, Any]:
        """The chunk as plain columns for Ray Data. Texts are joined by NUL, so NULs inside them are removed, as
        normalising would do; lone surrogates, which UTF-8 cannot encode, become `?`."""
        return {
            "file": self.name.file,
            "number": self.name.number,
            "bytes_read": self.bytes_read,
            "places": json.dumps([[file, row.number] for file, row in self.rows]),
            "row_facts": json.dumps([[row.drop, row.label, row.columns] for _, row in self.rows], default=str),
            "texts": b"\0".join(row.text.replace("\0", "").encode("utf-8", "replace") for _, row in self.rows),
            "bad_rows": json.dumps([[file, asdict(row)] for file, row in self.bad_rows]),
        }

    @classmethod
    def from_ray_row(cls, row: dict[str, Any]) -> RawChunk:
        places = json.loads(row["places"])
        texts = row["texts"].split(b"\0") if places else []
        known = zip(places, texts, json.loads(row["row_facts"]), strict=True)
        rows = [(file, SourceRow(number, text.decode(), *facts)) for (file, number), text, facts in known]
        bad_rows = [(file, BadRow(**bad)) for file, bad in json.loads(row["bad_rows"])]
        name = ChunkName(int(row["file"]), int(row["number"]))
        return cls(name, rows, bad_rows, len(row["texts"]), int(row["bytes_read"]))


def chunked(rows: Iterable[tuple[int, SourceRow | BadRow]], chunk_bytes: int) -> Iterator[RawChunk]:
    """The rows in chunks of about `chunk_bytes` of text. How they are cut has no influence on results."""
    chunk: RawChunk | None = None
    before: ChunkName | None = None
    for file, row in rows:
        if chunk is None:
            number = before.number + 1 if before is not None and before.file == file else 0
            chunk = RawChunk(before := ChunkName(file, number))
        if isinstance(row, BadRow):
            chunk.bad_rows.append((file, row))
            chunk.text_bytes += len(row.detail)
        else:
            chunk.rows.append((file, row))
            chunk.text_bytes += len(row.text)
        if chunk.text_bytes >= chunk_bytes:
            yield chunk
            chunk = None
    if chunk is not None:
        yield chunk
