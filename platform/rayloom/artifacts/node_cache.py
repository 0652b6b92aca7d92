"""The node's cache of a remote store's artifacts: fetching, and eviction of the least recently used copies.

`RAYLOOM_CACHE_BYTES` limits their total size, with compiled code (`models/compile_cache.py`); without it, all are kept.
What a running process uses is never removed. Of an artifact that is streamed only single files are here, each while a
process uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import fsspec

from rayloom.artifacts.durable import appearing, write_durably
from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.manifest import MANIFEST_NAME, WORK_NAME, FileEntry, Manifest, sha256_of
from rayloom.artifacts.s3 import Wanted
from rayloom.artifacts.transfer import download
from rayloom.errors import InputError, ResourceError

STREAMED = ".streamed"
"""Ending of the folder with single files of an artifact."""
_COMPILED = "compiled"


def cache_folder() -> Path:
    """The node's cache: the folder that `RAYLOOM_CACHE` names."""
    return Path(os.environ.get("RAYLOOM_CACHE", "~/.cache/rayloom")).expanduser()


def compiled_folder(key: str) -> Path:
    """The folder of compiled code with this key."""
    return cache_folder() / _COMPILED / key


def fetch(manifest: Manifest, filesystem: fsspec.AbstractFileSystem, source: str, copy: Path) -> None:
    """Makes `copy` a complete copy of the artifact at `source`, unless it is one; it stays while this process lives.

    Raises InputError if the fetched files are not those of the manifest.
    """
    with exclusive(copy.with_suffix(".lock")):
        keep_while_alive(copy)
        if (copy / MANIFEST_NAME).exists():
            return
        make_room(copy.parent, manifest.size_bytes)
        missing = [file for file in manifest.files if not _is_whole(copy / file.path, file.sha256)]
        for file in missing:
            (copy / file.path).parent.mkdir(parents=True, exist_ok=True)
        if download(filesystem, [_wanted(file, source, copy / file.path) for file in missing]):
            shutil.rmtree(copy)
            raise _damaged(manifest.id, source)
        write_durably(copy / MANIFEST_NAME, manifest.model_dump_json(indent=2))


def keep_built(manifest: Manifest, built: Path, copy: Path) -> None:
    """Moves the folder in which the artifact was built into the cache, so that it need not be fetched."""
    with exclusive(copy.with_suffix(".lock")):
        keep_while_alive(copy)
        if not copy.exists():
            make_room(copy.parent, manifest.size_bytes)
            shutil.rmtree(built / WORK_NAME, ignore_errors=True)
            built.rename(copy)
            write_durably(copy / MANIFEST_NAME, manifest.model_dump_json(indent=2))


def _damaged(name: str, source: str) -> InputError:
    fix = "Check it with `rayloom artifacts verify` and run its job again."
    return InputError(f"{name} came damaged out of the store", where=source, fix=fix)


def _wanted(file: FileEntry, source: str, here: Path) -> Wanted:
    return Wanted(f"{source}/{file.path}", here, file.size_bytes, file.sha256)


def _is_whole(file: Path, sha256: str) -> bool:
    return file.is_file() and sha256_of(file) == sha256


def limit_bytes() -> int | None:
    """The limit in bytes, or None if there is none. Raises InputError if `RAYLOOM_CACHE_BYTES` is not a number."""
    text = os.environ.get("RAYLOOM_CACHE_BYTES")
    if not text:
        return None
    if not text.isdigit():
        fix = "Write a number of bytes, such as 200000000000."
        raise InputError("RAYLOOM_CACHE_BYTES is no number of bytes", where=text, fix=fix)
    return int(text)


def keep_while_alive(copy: Path) -> None:
    """Marks a copy as in use until this process and its children end."""
    _held(_mark(copy))
    os.utime(_mark(copy))


@functools.cache
def _held(mark: Path) -> int:
    """The descriptor of the mark, never closed."""
    mark.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(mark, os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # the kernel releases it when the last process that has the file open ends
    return descriptor


def make_room(folder: Path, needed_bytes: int) -> bool:
    """Removes the least recently used copies in `folder`, and compiled code beside it, until `needed_bytes` more fit
    into the limit; whether they do."""
    limit = limit_bytes()
    if limit is None:
        return True
    found = [manifest.parent for manifest in folder.glob(f"*/{MANIFEST_NAME}")]
    compiled = [entry for entry in (folder.parent / _COMPILED).glob("*") if entry.is_dir()]
    own = [entry for entry in compiled if entry.stat().st_uid == os.getuid()]  # others' cannot be removed
    copies = {copy: _size(copy) for copy in (*found, *own)}
    taken = sum(copies.values()) + sum(map(_size, folder.glob(f"*{STREAMED}")))
    for copy in sorted(copies, key=_used_at):
        if taken + needed_bytes <= limit:
            break
        if _removed(copy):
            taken -= copies[copy]
    return taken + needed_bytes <= limit


def _removed(copy: Path) -> bool:
    """Removes the copy unless it is in use; whether it was removed."""
    with _mark(copy).open("a") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        (copy / MANIFEST_NAME).unlink(missing_ok=True)  # first, so that a half-removed copy does not count as one
        shutil.rmtree(copy)
    return True


def _mark(copy: Path) -> Path:
    return copy.with_suffix(".use")


def _used_at(copy: Path) -> float:
    mark = _mark(copy)
    return mark.stat().st_mtime if mark.exists() else 0.0


def _size(copy: Path) -> int:
    """Bytes of the files in a folder, where compilers may remove some meanwhile."""
    size = 0
    for folder, _, files in os.walk(copy):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                size += Path(folder, name).stat().st_size
    return size


# Single files of an artifact that is larger than the disk, or read only in part.


@dataclass(frozen=True)
class TakenFile:
    """A file on this node's disk, until it is given back."""

    path: Path
    mark: int
    """Descriptor of the file whose shared lock says that this process uses it."""


@dataclass(frozen=True)
class StreamedFiles:
    """The files of one artifact that processes of this node use at the moment."""

    manifest: Manifest
    filesystem: fsspec.AbstractFileSystem
    source: str
    """The artifact's folder in the store."""
    folder: Path

    def take(self, file: FileEntry) -> TakenFile:
        """The file, fetched unless another process has it here.

        Raises ResourceError if the limit leaves no room for it, and InputError if it came damaged out of the store.
        """
        path = self.folder / file.path
        with self._locked():
            mark = os.open(_mark_of_file(path), os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(mark, fcntl.LOCK_SH)
                self._fetch([file])
            except BaseException:
                os.close(mark)
                raise
        return TakenFile(path, mark)

    def give_back(self, taken: TakenFile) -> None:
        """Removes the file if no other process of this node uses it."""
        with self._locked():
            _remove_unused(taken.path, taken.mark)

    def keep(self, files: Iterable[FileEntry]) -> Path:
        """The folder, with these files, which stay; what killed processes left of others is removed."""
        with self._locked():
            for mark in self.folder.rglob("*.use"):
                _remove_unused(mark.with_suffix(""), os.open(mark, os.O_RDWR))
            self._fetch(files)
        return self.folder

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return exclusive(self.folder.with_suffix(".streamed-lock"))

    def _fetch(self, files: Iterable[FileEntry]) -> None:
        for file in files:
            path = self.folder / file.path
            if path.exists():
                continue
            if not make_room(self.folder.parent, file.size_bytes):
                fix = "Raise it, or train with fewer workers on this node."
                what = f"RAYLOOM_CACHE_BYTES has no room for the part of {self.manifest.id} that is being read"
                raise ResourceError(what, where=str(self.folder), fix=fix)
            with appearing(path, single_writer=True) as unfinished:
                if download(self.filesystem, [_wanted(file, self.source, unfinished)]):
                    raise _damaged(f"{self.manifest.id}: {file.path}", self.source)


def _mark_of_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.use")


def _remove_unused(path: Path, mark: int) -> None:
    """Closes the mark; removes the file unless another process uses it."""
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        _mark_of_file(path).unlink(missing_ok=True)
    except BlockingIOError:
        pass
    finally:
        os.close(mark)
