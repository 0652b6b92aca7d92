"""Files between the passes, in one folder and written atomically.

An exchange is a shuffle on disk: each writer writes one file with its records sorted by bucket and an index of where
each bucket begins; each reader reads its bucket from every writer's file. No process holds all records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rayloom.artifacts.durable import appearing


@dataclass(frozen=True)
class Scratch:
    """A folder that every node sees."""

    root: Path

    def folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def save_json(self, name: str, value: Any) -> None:
        write_whole(self.root / f"{name}.json", lambda file: file.write(json.dumps(value).encode()))

    def load_json(self, name: str) -> Any | None:
        path = self.root / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file atomically: it gets its name only when it is complete."""
    with appearing(path) as unfinished, unfinished.open("wb") as file:
        write(file)


def send(folder: Path, writer: str, records: NDArray[Any], buckets: NDArray[np.int64], num_buckets: int) -> None:
    """Writes `records` (a structured or plain array) for the readers of an exchange. `buckets`: that of each record."""
    order = np.argsort(buckets, kind="stable")
    begins = np.searchsorted(buckets[order], np.arange(num_buckets + 1))

    def write(file: IO[bytes]) -> None:
        file.write(begins.astype("<i8").tobytes())
        file.write(records[order].tobytes())

    write_whole(folder / writer, write)


def receive(folder: Path, writers: Sequence[str], bucket: int, num_buckets: int, dtype: Any) -> NDArray[Any]:
    """All records of a bucket, writer after writer in the order given."""
    kind = np.dtype(dtype)
    header = 8 * (num_buckets + 1)
    found = []
    for writer in writers:
        with (folder / writer).open("rb") as file:
            file.seek(8 * bucket)
            begin, end = np.frombuffer(file.read(16), "<i8")
            if end > begin:
                file.seek(header + int(begin) * kind.itemsize)
                found.append(np.frombuffer(file.read(int(end - begin) * kind.itemsize), kind))
    return np.concatenate(found) if found else np.zeros(0, kind)
