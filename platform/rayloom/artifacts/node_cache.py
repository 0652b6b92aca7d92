"""The node's cache of a remote store's artifacts: its size limit and the eviction of the least recently used copies.

`RAYLOOM_CACHE_BYTES` limits their total size; without it, all are kept. A copy that a running process uses is never
removed.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
from pathlib import Path
from typing import IO

from rayloom.artifacts.manifest import MANIFEST_NAME
from rayloom.errors import InputError


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
def _held(mark: Path) -> IO[str]:
    mark.parent.mkdir(parents=True, exist_ok=True)
    file = mark.open("a")
    fcntl.flock(file, fcntl.LOCK_SH)  # the kernel releases it when the last process that has the file open ends
    return file


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
