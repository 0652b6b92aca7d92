"""Samples as they are made, on disk, part by part, and packed rows written from them: memory does not grow with them.

A folder holds `tokens`, `labels` and `records`, to which each part adds, and `parts.jsonl` with a line for each part:
what it added, with a checksum. After a kill, what stands behind the last whole part is cut off.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.text.packed.shards import ROWS_NAME, SHARD_TOKENS, save_index, shard_file

PARTS_NAME = "parts.jsonl"
WRITE_BYTES = 1 << 20
_ARRAYS = ("tokens", "labels", "rows", "samples")


@dataclass(frozen=True)
class SampleOrder:
    """Which samples stand in which rows. Shapes: D samples, one after the other; R rows."""

    offsets: NDArray[np.int64]
    """(D,) the first token of each in the file of samples."""
    lengths: NDArray[np.int64]
    """(D,) its tokens."""
    num_labels: NDArray[np.int64]
    """(D,) how many of them are labels."""
    begins: NDArray[np.int64]
    """(R,) the first sample of each row."""


class SampleFile:
    """Samples of token ids with their labels, and two tables of records: one of rows, one of samples."""

    def __init__(self, folder: Path, types: Mapping[str, Any]) -> None:
        """`types`: the type of each of `tokens`, `rows` and `samples`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._types = {"labels": np.dtype(np.bool_), **{name: np.dtype(kind) for name, kind in types.items()}}
        self.parts = self._whole_parts()
        """What was said of each part."""
        self._files = {name: (folder / name).open("ab") for name in _ARRAYS}
        self._log = (folder / PARTS_NAME).open("a", encoding="utf-8")

    def close(self) -> None:
        for file in (*self._files.values(), self._log):
            file.close()

    def flush(self) -> None:
        """Makes what was added readable."""
        for file in (*self._files.values(), self._log):
            file.flush()

    def add(self, arrays: Mapping[str, NDArray[Any]], said: Mapping[str, Any]) -> None:
        """Adds a part; `said`: JSON values about it."""
        sums = {}
        for name in _ARRAYS:
            content = np.ascontiguousarray(arrays[name], self._types[name]).tobytes()
            self._files[name].write(content)
            self._files[name].flush()
            sums[name] = [len(content), zlib.crc32(content)]
        part = {"arrays": sums, **said}
        self.parts.append(part)
        self._log.write(json.dumps(part) + "\n")
        self._log.flush()

    def table(self, name: str) -> NDArray[Any]:
        """All records of `rows` or `samples`."""
        return np.fromfile(self.folder / name, self._types[name])

    def part(self, name: str, begin: int, size: int) -> NDArray[Any]:
        """Some of the `tokens` or `labels`, from the token with the number `begin` on."""
        kind = self._types[name]
        return np.fromfile(self.folder / name, kind, int(size), offset=int(begin) * kind.itemsize)

    def write_shards(self, directory: Path, facts: Mapping[str, Any], rows: SampleOrder) -> None:
        """Token shards with these rows, the same as a ShardWriter's of the same documents. The index comes last."""
        directory.mkdir(parents=True, exist_ok=True)
        ends = np.cumsum(rows.lengths)
        shards: list[dict[str, int]] = []
        first = before = 0
        while first < len(ends):
            last = min(int(np.searchsorted(ends, before + SHARD_TOKENS)) + 1, len(ends))
            self._write_shard(directory, len(shards), rows, slice(first, last))
            shards.append({"num_tokens": int(ends[last - 1]) - before, "num_documents": last - first})
            first, before = last, int(ends[last - 1])
        if len(rows.begins):
            np.save(directory / ROWS_NAME, np.append(0, ends)[rows.begins].astype(np.int64), allow_pickle=False)
        save_index(directory, {**facts, "has_rows": bool(len(rows.begins)), "shards": shards})

    def _write_shard(self, directory: Path, number: int, rows: SampleOrder, part: slice) -> None:
        offsets, lengths = rows.offsets[part], rows.lengths[part]
        starts = np.append(0, np.cumsum(lengths)[:-1]).astype(np.int64)
        np.save(shard_file(directory, number, "documents"), starts, allow_pickle=False)
        names = {"tokens": "tokens"}
        if int(rows.num_labels[part].sum()) < int(lengths.sum()):
            names["labels"] = "trained"
        for source, target in names.items():
            self._copy(source, shard_file(directory, number, target), offsets, lengths)

    def _copy(self, name: str, target: Path, offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Copies parts of a file behind one another, as a .npy: read and written, not mapped, so that none stays."""
        kind = self._types[name]
        about = {"descr": kind.str, "fortran_order": False, "shape": (int(lengths.sum()),)}
        source = os.open(self.folder / name, os.O_RDONLY)
        try:
            with target.open("wb", buffering=WRITE_BYTES) as file:
                np.lib.format.write_array_header_1_0(file, about)  # type: ignore[no-untyped-call]
                for offset, size in zip(
                    (offsets * kind.itemsize).tolist(), (lengths * kind.itemsize).tolist(), strict=True
                ):
                    file.write(os.pread(source, size, offset))
        finally:
            os.close(source)

    def _whole_parts(self) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        ends = dict.fromkeys(_ARRAYS, 0)
        for name in _ARRAYS:
            (self.folder / name).touch()
        for part in _lines(self.folder / PARTS_NAME):
            places = ((self.folder / name, ends[name], size) for name, (size, _) in part["arrays"].items())
            if [_sum_at(*place) for place in places] != [sum_ for _, sum_ in part["arrays"].values()]:
                break
            ends = {name: ends[name] + size for name, (size, _) in part["arrays"].items()}
            parts.append(part)
        for name, end in ends.items():
            with (self.folder / name).open("r+b") as file:
                file.truncate(end)
        (self.folder / PARTS_NAME).write_text("".join(json.dumps(part) + "\n" for part in parts))
        return parts


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:  # the process was killed while it wrote
            return


def _sum_at(file: Path, begin: int, size: int) -> int:
    with file.open("rb") as content:
        content.seek(begin)
        return zlib.crc32(content.read(size))
