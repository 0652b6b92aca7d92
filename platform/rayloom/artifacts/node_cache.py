"""The node's cache of a remote store's artifacts: fetching, and eviction of the least recently used copies.

`RAYLOOM_CACHE_BYTES` limits their total size; without it, all are kept. A copy that a running process uses is never
removed.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
from pathlib import Path

import fsspec

from rayloom.artifacts.durable import write_durably
from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.manifest import MANIFEST_NAME, WORK_NAME, Manifest, file_entries, sha256_of
from rayloom.artifacts.transfer import download
from rayloom.errors import InputError


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
        download(filesystem, [(f"{source}/{file.path}", copy / file.path, file.size_bytes) for file in missing])
        if file_entries(copy) != manifest.files:
            shutil.rmtree(copy)
            fix = "Check it with `rayloom artifacts verify` and run its job again."
            raise InputError(f"{manifest.id} came damaged out of the store", where=source, fix=fix)
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


def make_room(folder: Path, needed_bytes: int) -> None:
    """Removes the least recently used copies until `needed_bytes` more fit into the limit."""
    limit = limit_bytes()
    if limit is None:
        return
    copies = {manifest.parent: _size(manifest.parent) for manifest in folder.glob(f"*/{MANIFEST_NAME}")}
    taken = sum(copies.values())
    for copy in sorted(copies, key=_used_at):
        if taken + needed_bytes <= limit:
            return
        if _removed(copy):
            taken -= copies[copy]


def _removed(copy: Path) -> bool:
    """Removes the copy unless it is in use; whether it was removed."""
    with _mark(copy).open("a") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        (copy / MANIFEST_NAME).unlink()  # first, so that a half-removed copy does not count as one
        shutil.rmtree(copy)
    return True


def _mark(copy: Path) -> Path:
    return copy.with_suffix(".use")


def _used_at(copy: Path) -> float:
    mark = _mark(copy)
    return mark.stat().st_mtime if mark.exists() else 0.0


def _size(copy: Path) -> int:
    return sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
