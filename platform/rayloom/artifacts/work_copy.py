"""A copy of a job's work folder in a remote store, from which another node resumes if the folder's node is lost.

`within` makes it the copy of a folder in the work folder, such as that of one trial of a search.

In a local store, which all nodes share, the work folder is in the store itself: there is no copy, and `put`, `fetch`,
`remove`, `discard` and `replace` do nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from rayloom.artifacts.durable import appearing
from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.manifest import WORK_NAME, sha256_of
from rayloom.artifacts.s3 import Wanted
from rayloom.artifacts.store import Store
from rayloom.artifacts.transfer import download, upload
from rayloom.engine_errors import is_unreachable_store


@dataclass(frozen=True)
class WorkCopy:
    """Paths are relative to the work folder. Each worker writes files of its own, so no two write the same path."""

    store: Store
    name: str
    version: str
    within: str = ""

    def inside(self, path: str) -> WorkCopy:
        """The copy of a folder in this one."""
        return replace(self, within=f"{self.within}/{path}".lstrip("/"))

    @property
    def is_needed(self) -> bool:
        return not self.store.is_local

    @property
    def folder(self) -> Path:
        """The folder on this node."""
        return self.store.building_directory(self.name, self.version) / WORK_NAME / self.within

    @property
    def root(self) -> str:
        return f"{self.store.location(self.name, self.version)}/{WORK_NAME}/{self.within}".rstrip("/")

    # -- to the store ----------------------------------------------------------------------------------------------

    def put(self, path: str) -> None:
        """Copies a file or folder from this node to the store.

        Deeper files go first, so that the file that marks a folder as complete is copied last.
        """
        if not self.is_needed:
            return
        source = self.folder / path
        found = sorted(source.rglob("*"), key=_depth) if source.is_dir() else [source]
        for _, files in groupby((file for file in found if file.is_file()), _depth):
            here = list(files)
            targets = [f"{self.root}/{file.relative_to(self.folder).as_posix()}" for file in here]
            for folder in {target.rpartition("/")[0] for target in targets}:
                self.store.filesystem.makedirs(folder, exist_ok=True)
            upload(self.store.filesystem, list(zip(here, targets, strict=True)))

    def remove(self, path: str) -> None:
        """Removes a file or folder from the store, if it is there."""
        if self.is_needed and self.store.filesystem.exists(f"{self.root}/{path}"):
            self.store.filesystem.rm(f"{self.root}/{path}", recursive=True)

    def discard(self, path: str) -> bool:
        """Like `remove`, for what is only not needed any more; False if the store does not answer.

        What is left there goes with the rest of the work folder when the artifact is published.
        """
        try:
            self.remove(path)
        except Exception as error:
            if not is_unreachable_store(error):
                raise
            return False
        return True

    # -- from the store --------------------------------------------------------------------------------------------

    def sizes(self, path: str) -> dict[str, int]:
        """Size in bytes of each file in the store at or below `path`, deeper files first."""
        self.store.filesystem.invalidate_cache()
        listing = self.store.filesystem.find(f"{self.root}/{path}".rstrip("/"), detail=True)
        inside = f"/{WORK_NAME}/{self.within}/" if self.within else f"/{WORK_NAME}/"
        sizes = {name.split(inside, 1)[1]: facts["size"] for name, facts in listing.items()}
        return dict(sorted(sizes.items(), key=lambda file: -file[0].count("/")))

    def fetch(self, path: str) -> None:
        """Copies a file or folder from the store to this node; files that are here with the same size are kept."""
        if not self.is_needed:
            return
        with exclusive(self.folder / ".fetching"):
            missing = {n: size for n, size in self.sizes(path).items() if not _has_size(self.folder / n, size)}
            self._get(missing)

    def fetch_exactly(self, files: Mapping[str, str]) -> list[str]:
        """Fetches the files that are not on this node with the given SHA-256 digests.

        Returns the names of those that the store lacks or has with another digest.
        """
        damaged = []
        with exclusive(self.folder / ".fetching"):
            for name, digest in files.items():
                if not _has_digest(self.folder / name, digest):
                    with suppress(FileNotFoundError):
                        self._get({name: self.store.filesystem.size(f"{self.root}/{name}")})
                    if not _has_digest(self.folder / name, digest):
                        damaged.append(name)
        return damaged

    def _get(self, sizes: Mapping[str, int]) -> None:
        """Fetches files by name, with their sizes in bytes."""
        with ExitStack() as files:
            unfinished = {name: files.enter_context(appearing(self.folder / name)) for name in sizes}
            wanted = [Wanted(f"{self.root}/{name}", unfinished[name], size) for name, size in sizes.items()]
            download(self.store.filesystem, wanted)

    def replace(self, path: str) -> None:
        """Like `fetch`, but first removes what this node has at `path`."""
        if self.is_needed:
            here = self.folder / path
            if here.is_dir():
                shutil.rmtree(here)
            here.unlink(missing_ok=True)
            self.fetch(path)


def _depth(file: Path) -> int:
    """Sorts deeper files first."""
    return -len(file.parts)


def _has_size(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _has_digest(file: Path, digest: str) -> bool:
    return file.is_file() and sha256_of(file) == digest
