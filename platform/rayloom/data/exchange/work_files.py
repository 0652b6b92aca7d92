"""Files that the passes leave for each other, readable and writable on every node: one file a chunk and pass.

In a local store (a folder that every node sees, or the only node's) they lie in the job's work folder; otherwise in the
bucket. A file holds what a pass says about one chunk, a few megabytes, and is written and read whole: one request each.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from rayloom.artifacts.build import Build
from rayloom.artifacts.durable import appearing
from rayloom.artifacts.store import Store
from rayloom.artifacts.work_copy import WorkCopy

ALIGNMENT = 64
"""Parts of a file begin at multiples of this, so that arrays can be used in place."""


@dataclass(frozen=True)
class WorkFiles:
    """The files below `folder` of a job's work folder. It travels to other nodes as the store's address."""

    copy: WorkCopy
    folder: str

    @classmethod
    def of(cls, build: Build, name: str, folder: str) -> WorkFiles:
        return cls(WorkCopy(build.store, name, build.version), folder)

    def write(self, name: str, content: bytes) -> None:
        """Writes a file atomically."""
        if self.copy.is_needed:
            filesystem, place = self.copy.store.filesystem, self._place(name)
            _make_folder(filesystem, place.rpartition("/")[0])
            filesystem.pipe_file(place, content)
            return
        with appearing(self.copy.folder / self.folder / name) as unfinished:
            unfinished.write_bytes(content)

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""
        if self.copy.is_needed:
            # From byte 0 on, and so in one request: of a whole file s3fs asks the size first. No file is empty.
            return bytes(self.copy.store.filesystem.cat_file(self._place(name), start=0))
        return (self.copy.folder / self.folder / name).read_bytes()

    def is_begun(self) -> bool:
        """Whether an earlier run left files here."""
        if not self.copy.is_needed:
            return (self.copy.folder / self.folder).is_dir()
        self.copy.store.filesystem.invalidate_cache()
        return bool(self.copy.store.filesystem.exists(f"{self.copy.root}/{self.folder}"))

    def write_parts(self, name: str, parts: Mapping[str, bytes]) -> None:
        self.write(name, packed(parts))

    def read_parts(self, name: str) -> dict[str, memoryview]:
        return unpacked(self.read(name))

    def found_parts(self, name: str) -> dict[str, memoryview] | None:
        """The parts of a file that an earlier run may have left; None if there is none."""
        try:
            return self.read_parts(name)
        except FileNotFoundError:
            return None

    def save_json(self, name: str, value: Any) -> None:
        self.write(f"{name}.json", json.dumps(value).encode())

    def load_json(self, name: str) -> Any | None:
        try:
            return json.loads(self.read(f"{name}.json"))
        except FileNotFoundError:
            return None

    def _place(self, name: str) -> str:
        return f"{self.copy.root}/{self.folder}/{name}"

    # -- folders that libraries read, such as a tokenizer's ----------------------------------------------------------

    def here(self, name: str) -> Path:
        """A folder of `put_folder` on this node's disk, fetched if it is not there."""
        folder = self.copy.folder / self.folder / name
        if self.copy.is_needed:
            _fetched(self.copy.store.uri, self.copy.name, self.copy.version, f"{self.folder}/{name}", folder)
        return folder

    def put_folder(self, name: str, source: Path) -> None:
        """Gives every node a copy of a folder."""
        target = self.copy.folder / self.folder / name
        shutil.copytree(source, target, dirs_exist_ok=True)
        self.copy.put(f"{self.folder}/{name}")


@functools.lru_cache(maxsize=64)
def _make_folder(filesystem: fsspec.AbstractFileSystem, folder: str) -> None:
    filesystem.makedirs(folder, exist_ok=True)


@functools.lru_cache(maxsize=64)
def _fetched(uri: str, name: str, version: str, path: str, _: Path) -> None:
    """Fetches a folder once in each process; its files do not change."""
    WorkCopy(Store(uri), name, version).fetch(path)


def packed(parts: Mapping[str, bytes]) -> bytes:
    """One file of several parts: a line of JSON with their sizes, then the parts."""
    header = json.dumps({name: len(part) for name, part in parts.items()}).encode() + b"\n"
    return b"".join(piece + bytes(-len(piece) % ALIGNMENT) for piece in (header, *parts.values()))


def unpacked(content: bytes) -> dict[str, memoryview]:
    """The parts of such a file, without a copy."""
    whole, end = memoryview(content), content.index(b"\n") + 1
    found, begin = {}, end + -end % ALIGNMENT
    for name, size in json.loads(content[:end]).items():
        found[name] = whole[begin : begin + size]
        begin += size + -size % ALIGNMENT
    return found


def array_of(part: memoryview, dtype: Any) -> NDArray[Any]:
    return np.frombuffer(part, dtype)
