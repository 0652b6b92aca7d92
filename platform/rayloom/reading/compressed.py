"""Decompression of files as streams; a truncated file is an error, not an end of file."""

from __future__ import annotations

import bz2
import io
import lzma
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import zstandard

from rayloom.reading.records import DamagedFileError

PACKED_BYTES = 1 << 15
BUFFER_BYTES = 1 << 17
MAX_WINDOW_BYTES = 1 << 31
"""The largest window of Zstandard (`zstd --long=31`)."""
_DAMAGED = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError)


@dataclass(frozen=True)
class Compression:
    """A compression format: its file name endings, the first bytes of a member, and a decompressor for one member."""

    name: str
    suffixes: tuple[str, ...]
    beginning: re.Pattern[bytes]
    new_member: Callable[[], Any]


COMPRESSIONS = (
    Compression("gzip", (".gz", ".gzip"), re.compile(rb"\x1f\x8b\x08"), lambda: zlib.decompressobj(wbits=31)),
    Compression("bzip2", (".bz2",), re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.BZ2Decompressor),
    Compression("xz", (".xz",), re.compile(rb"\xfd7zXZ\0"), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    Compression(
        "Zstandard",
        (".zst", ".zstd"),
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
        lambda: zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj(),
    ),
)
BEGINNING_BYTES = 16


def compression_of(name: str, beginning: bytes) -> Compression | None:
    """The compression of a file, by its first bytes. Raises DamagedFileError if the name says otherwise."""
    for one in COMPRESSIONS:
        if one.beginning.match(beginning):
            return one
    for one in COMPRESSIONS:
        if name.lower().endswith(one.suffixes) and beginning:
            raise DamagedFileError(f"its name says {one.name}, but it does not begin like that")
    return None


def without_compression(name: str) -> str:
    """The name without the ending of its compression format."""
    endings = tuple(ending for one in COMPRESSIONS for ending in one.suffixes)
    return name.rpartition(".")[0] if name.lower().endswith(endings) else name


class Unpacked(io.RawIOBase):
    """The decompressed content of all members. Raises DamagedFileError if one is damaged or truncated.

    The libraries' own readers silently ignore data after a member that is not another member, and accept a truncated
    Zstandard frame.
    """

    def __init__(self, packed: IO[bytes], how: Compression) -> None:
        self._packed, self._how = packed, how
        self._member = how.new_member()
        self._is_inside = False
        self._rest = b""
        self._waiting = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting:
            packed = self._rest or self._packed.read(PACKED_BYTES)
            self._rest = b""
            if not packed:
                if self._is_inside:
                    raise DamagedFileError(f"it ends in the middle of its {self._how.name} data")
                return 0
            self._unpack(packed)
        size = min(len(buffer), len(self._waiting))
        buffer[:size], self._waiting = self._waiting[:size], self._waiting[size:]
        return size

    def _unpack(self, packed: bytes) -> None:
        if not self._is_inside:
            if not packed.strip(b"\0"):  # padding between or after members
                return
            packed += self._packed.read(BEGINNING_BYTES) if len(packed) < BEGINNING_BYTES else b""
            if not self._how.beginning.match(packed):
                raise DamagedFileError(f"behind its {self._how.name} data stands something else")
            self._member = self._how.new_member()
        try:
            self._waiting = memoryview(self._member.decompress(packed))
        except _DAMAGED as error:
            raise DamagedFileError(f"its {self._how.name} data are damaged: {error}") from None
        self._is_inside = not self._member.eof
        self._rest = b"" if self._is_inside else self._member.unused_data
