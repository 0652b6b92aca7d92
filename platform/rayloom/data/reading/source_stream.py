"""A source file being read, and how much of it was."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import IO

from rayloom.artifacts.files_in_place import open_in_place
from rayloom.data.reading.compressed import decompressed
from rayloom.errors import InputError


class Input:
    """A file being read; `bytes_read` counts what was taken off the disk, compressed or not."""

    def __init__(self, path: str | Path) -> None:
        """`path`: on a disk that every node sees, or a URI."""
        if "://" in str(path):
            self._raw, self._filesystem = open_in_place(str(path))
        else:
            self._raw = _opened(Path(path))
        self.stream = decompressed(self._raw, PurePosixPath(str(path).partition("::")[0]).suffix)

    @property
    def bytes_read(self) -> int:
        return self._raw.tell()

    def close(self) -> None:
        self.stream.close()
        self._raw.close()


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        fix = "Check that every node sees the file and may read it."
        raise InputError(f"A source file cannot be read: {error.strerror}", where=str(path), fix=fix) from None
