"""An open file with its content decompressed, and the number of bytes read from it."""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path
from typing import IO, Any

from rayloom.errors import InputError
from rayloom.reading.compressed import BEGINNING_BYTES, BUFFER_BYTES, Unpacked, compression_of
from rayloom.reading.files_in_place import open_in_place


class SourceStream:
    """An open file; `bytes_read`: bytes read so far, before decompression."""

    def __init__(self, path: str | Path) -> None:
        """`path`: on a disk that every node sees, or a URI. Raises InputError if it cannot be opened."""
        if "://" in str(path):
            self._raw, self._filesystem = open_in_place(str(path))
            self._packed: IO[bytes] = io.BufferedReader(_AnyFile(self._raw), BUFFER_BYTES)
        else:
            self._raw = self._packed = _opened(Path(path))
        self._name = str(path).partition("::")[0]
        self._whole: IO[bytes] | None = None

    @property
    def bytes_read(self) -> int:
        return self._raw.tell()

    @functools.cached_property
    def content(self) -> io.BufferedReader:
        """The decompressed content. Raises DamagedFileError here or while it is read."""
        assert isinstance(self._packed, io.BufferedReader)
        how = compression_of(self._name, self._packed.peek(BEGINNING_BYTES)[:BEGINNING_BYTES])
        return self._packed if how is None else io.BufferedReader(Unpacked(self._packed, how), BUFFER_BYTES)

    def seekable_content(self) -> IO[bytes]:
        """The content for readers that seek (Parquet, Arrow); compressed and remote files are copied to a temporary
        file first."""
        content = self.content
        if content is self._packed and content.seekable():
            return content
        self._whole = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the rest)
        while part := content.read(BUFFER_BYTES):
            self._whole.write(part)
        self._whole.seek(0)
        return self._whole

    def close(self) -> None:
        if self._whole is not None:
            self._whole.close()
        self._raw.close()


class _AnyFile(io.RawIOBase):
    """Adapts a file of any file system to `io.BufferedReader`; some of them have `read` only."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        part = self._file.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb", buffering=BUFFER_BYTES)
    except OSError as error:
        fix = "Check that every node sees the file and may read it."
        raise InputError(f"A source file cannot be read: {error.strerror}", where=str(path), fix=fix) from None
