"""Text in any encoding as UTF-8. A byte order mark or the caller names the encoding; it is not guessed."""

from __future__ import annotations

import codecs
import io
from typing import IO, Any

from rayloom.reading.compressed import BUFFER_BYTES
from rayloom.reading.records import DamagedFileError

HEAD_BYTES = 1 << 16
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BINARY = {
    b"PAR1": "Parquet", b"ARROW1": "Arrow", b"PK\x03\x04": "a ZIP archive", b"%PDF-": "PDF", b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"\x7fELF": "a program", b"SQLite format 3": "SQLite",
    b"\x1f\x8b": "gzip inside gzip", b"\xfd7zXZ": "xz inside xz", b"\x28\xb5\x2f\xfd": "Zstandard inside Zstandard",
    b"7z\xbc\xaf": "a 7z archive", b"\x80\x04\x95": "a Python pickle", b"\x80\x05\x95": "a Python pickle",
    b"\x93NUMPY": "a NumPy array", b"version https://git-lfs.github.com/spec/": "the pointer of a file in Git LFS",
}  # fmt: skip
MAX_NUL_SHARE = 0.01
"""A file with a larger share of NUL characters is binary; text can have a few by mistake."""


def utf8_text(content: io.BufferedReader, encoding: str | None) -> io.BufferedReader:
    """The text as UTF-8 without a byte order mark; lone carriage returns that end lines become line feeds.

    Invalid bytes become bytes that are invalid in UTF-8 too, so that they make one row bad, not the file. Raises
    DamagedFileError if the file is not text.
    """
    head = content.peek(HEAD_BYTES)[:HEAD_BYTES]
    mark, marked = next(((mark, name) for mark, name in _MARKS if head.startswith(mark)), (b"", None))
    if marked == "utf-8":
        content.read(len(mark))
    elif marked or (encoding and codecs.lookup(encoding).name != "utf-8"):
        content = io.BufferedReader(_Recoded(content, marked or str(encoding)), BUFFER_BYTES)
    else:
        _check_is_text(head)
    head = content.peek(HEAD_BYTES)[:HEAD_BYTES]
    if b"\r" in head and b"\n" not in head:
        return io.BufferedReader(_LineFeeds(content), BUFFER_BYTES)
    return content


def binary_kind(head: bytes) -> str | None:
    """What a file that begins so is, if that is known and no text."""
    return next((kind for beginning, kind in _BINARY.items() if head.startswith(beginning)), None)


def _check_is_text(head: bytes) -> None:
    kind = binary_kind(head)
    if kind is not None:
        raise DamagedFileError(f"it is no text but {kind}")
    num_nul = head.count(b"\0")
    if num_nul > MAX_NUL_SHARE * len(head):
        every_second = max(head[::2].count(b"\0"), head[1::2].count(b"\0"))
        is_utf16 = every_second > 0.9 * num_nul and num_nul > 0.2 * len(head)
        what = "it looks like UTF-16 without a byte order mark: name its `encoding`" if is_utf16 else "it is binary"
        raise DamagedFileError(f"it is no text in UTF-8: {what}")


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    assert isinstance(error, UnicodeEncodeError)
    return b"\xff", error.end


INVALID = "rayloom.invalid"
"""Name of the codec error handler that replaces invalid bytes by one byte that is invalid in UTF-8."""
codecs.register_error(INVALID, _replaced)


class _Recoded(io.RawIOBase):
    """Text in another encoding as UTF-8."""

    def __init__(self, content: IO[bytes], encoding: str) -> None:
        self._content, self._encoding = content, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)(errors=INVALID)
        self._waiting = memoryview(b"")
        self._is_first = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        is_end = False
        while not self._waiting and not is_end:
            part = self._content.read(BUFFER_BYTES)
            is_end = not part
            try:
                text = self._decoder.decode(part, final=is_end)
            except UnicodeError as error:  # the text as a whole is not in this encoding
                raise DamagedFileError(f"it is no text in {self._encoding}: {error}") from None
            if text and self._is_first:
                text, self._is_first = text.removeprefix("\ufeff"), False
            self._waiting = memoryview(text.encode("utf-8", INVALID))
        size = min(len(buffer), len(self._waiting))
        buffer[:size], self._waiting = self._waiting[:size], self._waiting[size:]
        return size


class _LineFeeds(io.RawIOBase):
    """Text with its carriage returns replaced by line feeds."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._content.read(len(buffer))
        buffer[: len(part)] = part.replace(b"\r", b"\n")
        return len(part)
