"""Writing that survives a loss of power: whole or not at all, and on the disk when the call returns."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path


def write_durably(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
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
