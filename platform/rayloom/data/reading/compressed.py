"""Source files as streams of plain bytes, whatever compresses them; one that was cut off is an error, not an end."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from typing import IO, Any

import zstandard

READ_BYTES = 1 << 17
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, OSError)
"""What reading a damaged stream raises."""


def decompressed(raw: IO[bytes], suffix: str) -> IO[bytes]:
    """The content of a file by its name's ending: .gz, .bz2, .zst, .zstd; anything else as it is."""
    if suffix == ".gz":
        return gzip.open(raw)  # type: ignore[return-value]
    if suffix == ".bz2":
        return bz2.open(raw)
    if suffix in (".zst", ".zstd"):
        return io.BufferedReader(_ZstdStream(raw), READ_BYTES)
    return raw


class _ZstdStream(io.RawIOBase):
    """Frames of Zstandard, one after the other. zstandard's own stream reader takes a cut-off frame for the end."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._waiting = memoryview(b"")
        self._is_inside = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting:
            packed = self._frame.unused_data if self._frame.eof else b""
            packed = packed or self._raw.read(READ_BYTES)
            if not packed:
                if self._is_inside:
                    raise EOFError("the file ends in the middle of a Zstandard frame")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._waiting = memoryview(self._frame.decompress(packed))
            self._is_inside = not self._frame.eof
        size = min(len(buffer), len(self._waiting))
        buffer[:size], self._waiting = self._waiting[:size], self._waiting[size:]
        return size
