"""A source file being read, and how much of it was."""

from __future__ import annotations

from pathlib import Path

from rayloom.data.compressed import decompressed
from rayloom.errors import InputError


class Input:
    """A file being read; `bytes_read` counts what was taken off the disk, compressed or not."""

    def __init__(self, path: Path) -> None:
        try:
            self._raw = path.open("rb")
        except OSError as error:
            fix = "Check that every node sees the file and may read it."
            raise InputError(f"A source file cannot be read: {error.strerror}", where=str(path), fix=fix) from None
        self.stream = decompressed(self._raw, path.suffix)

    @property
    def bytes_read(self) -> int:
        return self._raw.tell()

    def close(self) -> None:
        self.stream.close()
        self._raw.close()
