"""A copy of a job's work folder in a remote store, from which another node resumes if the folder's node is lost.

In a local store, which all nodes share, the work folder is in the store itself: there is no copy, and `put`, `fetch`,
`remove` and `replace` do nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rayloom.artifacts.durable import appearing
from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.manifest import WORK_NAME, sha256_of
from rayloom.artifacts.store import Store


@dataclass(frozen=True)
class WorkCopy:
    """Paths are relative to the work folder. Each worker writes files of its own, so no two write the same path."""

    store: Store
    name: str
    version: str

    @classmethod
    def on_this_node(cls, uri: str, name: str, version: str) -> WorkCopy:
        return cls(Store(uri), name, version)

    def __reduce__(self) -> tuple[Callable[..., WorkCopy], tuple[str, str, str]]:
        """Pickles the store's address only: each node has its own local folders."""
        return WorkCopy.on_this_node, (self.store.uri, self.name, self.version)

    @property
    def is_needed(self) -> bool:
        return not self.store.is_local

    @property
    def folder(self) -> Path:
        """The work folder on this node."""
        return self.store.building_directory(self.name, self.version) / WORK_NAME

    @property
    def root(self) -> str:
        return f"{self.store.location(self.name, self.version)}/{WORK_NAME}"

    # -- to the store ----------------------------------------------------------------------------------------------

    def put(self, path: str) -> None:
        """Copies a file or folder from this node to the store.

        Deeper files go first, so that the file that marks a folder as complete is copied last.
        """
        if not self.is_needed:
            return
        source = self.folder / path
        for file in sorted(source.rglob("*"), key=lambda file: -len(file.parts)) if source.is_dir() else [source]:
            if file.is_file():
                target = f"{self.root}/{file.relative_to(self.folder).as_posix()}"
                self.store.filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
                self.store.filesystem.put_file(str(file), target)

    def remove(self, path: str) -> None:
        """Removes a file or folder from the store, if it is there."""
        if self.is_needed and self.store.filesystem.exists(f"{self.root}/{path}"):
            self.store.filesystem.rm(f"{self.root}/{path}", recursive=True)

    # -- from the store --------------------------------------------------------------------------------------------

    def sizes(self, path: str) -> dict[str, int]:
        """Size in bytes of each file in the store at or below `path`, deeper files first."""
        self.store.filesystem.invalidate_cache()
        listing = self.store.filesystem.find(f"{self.root}/{path}", detail=True)
        sizes = {name.split(f"/{WORK_NAME}/", 1)[1]: facts["size"] for name, facts in listing.items()}
        return dict(sorted(sizes.items(), key=lambda file: -file[0].count("/")))

    def fetch(self, path: str) -> None:
        """Copies a file or folder from the store to this node; files that are here with the same size are kept."""
        if not self.is_needed:
            return
        with exclusive(self.folder / ".fetching"):
            for name, size in self.sizes(path).items():
                target = self.folder / name
                if not target.is_file() or target.stat().st_size != size:
                    self._get(name)

    def fetch_exactly(self, files: Mapping[str, str]) -> list[str]:
        """Fetches the files that are not on this node with the given SHA-256 digests.

        Returns the names of those that the store lacks or has with another digest.
        """
        damaged = []
        with exclusive(self.folder / ".fetching"):
            for name, digest in files.items():
                if not _has_digest(self.folder / name, digest):
                    with suppress(FileNotFoundError):
                        self._get(name)
                    if not _has_digest(self.folder / name, digest):
                        damaged.append(name)
        return damaged

    def _get(self, name: str) -> None:
        with appearing(self.folder / name) as unfinished:
            self.store.filesystem.get_file(f"{self.root}/{name}", str(unfinished))

    def replace(self, path: str) -> None:
        """Like `fetch`, but first removes what this node has at `path`."""
        if self.is_needed:
            here = self.folder / path
            if here.is_dir():
                shutil.rmtree(here)
            here.unlink(missing_ok=True)
            self.fetch(path)


def _has_digest(file: Path, digest: str) -> bool:
    return file.is_file() and sha256_of(file) == digest
