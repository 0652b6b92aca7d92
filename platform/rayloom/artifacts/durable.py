"""Writing that survives a crash: a file or folder appears whole or not at all, and on the disk if that is asked for."""

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
    """A path beside `path` to write a file or folder at, which gets its name when the block ends without an error.

    `single_writer`: no other process writes it now, so what a killed one left half-written is overwritten.
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
    """Writes a text file that is whole and on the disk when the call returns."""
    with appearing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
        flush(unfinished)
    flush(path.parent)


def flush(path: Path) -> None:
    """Returns when the file's bytes, or the folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_readable(files: Iterable[Path]) -> None:
    """Gives files the mode that new files have here; libraries that write through temporary files leave 0600."""
    mask = os.umask(0)
    os.umask(mask)
    for file in files:
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode != (mode | 0o666) & ~mask:
            file.chmod((mode | 0o666) & ~mask)
