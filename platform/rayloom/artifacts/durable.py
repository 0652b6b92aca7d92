"""Atomic and durable writes: a file or folder appears complete or not at all, and can be flushed to the disk."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing(path: Path, *, single_writer: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` when the block ends without an error.

    `single_writer`: no other process writes it, so the leftovers of a killed process are overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{'unfinished' if single_writer else uuid.uuid4().hex}")
    _remove(unfinished)
    try:
        yield unfinished
        if unfinished.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        unfinished.replace(path)
    except BaseException:
        _remove(unfinished)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_durably(path: Path, text: str) -> None:
    """Writes a text file atomically and flushes it to the disk (fsync) before returning."""
    with appearing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
        flush(unfinished)
    flush(path.parent)


def flush(path: Path) -> None:
    """Flushes a file's bytes, or a folder's entries, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_readable(files: Iterable[Path]) -> None:
    """Gives files the default mode of new files (umask); libraries that write through temporary files leave 0600."""
    mask = os.umask(0)
    os.umask(mask)
    for file in files:
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode != (mode | 0o666) & ~mask:
            file.chmod((mode | 0o666) & ~mask)
