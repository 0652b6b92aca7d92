"""Copies of a remote store's artifacts on this node: how much they may take, and which of them can go.

`RAYLOOM_CACHE_BYTES` limits what they take together; if it is not set, they stay. A copy that a living process uses
never goes.
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
    """What the copies of this node may take, or None. Raises InputError if the setting is no number."""
    text = os.environ.get("RAYLOOM_CACHE_BYTES")
    if not text:
        return None
    if not text.isdigit():
        fix = "Write a number of bytes, such as 200000000000."
        raise InputError("RAYLOOM_CACHE_BYTES is no number of bytes", where=text, fix=fix)
    return int(text)


def keep_while_alive(copy: Path) -> None:
    """Marks a copy as used by this process and its children until they end."""
    _held(_mark(copy))
    os.utime(_mark(copy))


@functools.cache
def _held(mark: Path) -> IO[str]:
    mark.parent.mkdir(parents=True, exist_ok=True)
    file = mark.open("a")
    fcntl.flock(file, fcntl.LOCK_SH)  # the kernel frees it with the last process that has the file open
    return file


def make_room(folder: Path, needed_bytes: int) -> None:
    """Removes the copies that were used longest ago, until `needed_bytes` more stay within the limit."""
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
    """Whether the copy was not in use, and is gone now."""
    with _mark(copy).open("a") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        (copy / MANIFEST_NAME).unlink()  # first: without it a half-removed copy is none
        shutil.rmtree(copy)
    return True


def _mark(copy: Path) -> Path:
    return copy.with_suffix(".use")


def _used_at(copy: Path) -> float:
    mark = _mark(copy)
    return mark.stat().st_mtime if mark.exists() else 0.0


def _size(copy: Path) -> int:
    return sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
