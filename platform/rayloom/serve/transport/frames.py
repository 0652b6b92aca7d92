"""Frames of one answer, between the code that writes them and the one that reads them.

The first frame is the answer's head (see `asgi_call`); each further frame is a piece of its body. Pieces that are
written while the reader is busy are joined, so a slow reader gets fewer and larger ones, and a fast one each at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator


class Frames:
    """A queue of frames with an end, which may be a failure."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._has_news = asyncio.Event()
        self.is_over = False
        """Whether the writer has ended."""
        self._failure: BaseException | None = None

    def put(self, frame: bytes) -> None:
        self._waiting.append(frame)
        self._has_news.set()

    def end(self, failure: BaseException | None = None) -> None:
        """No frame follows; those written before are still read. Only the first call counts."""
        if not self.is_over:
            self.is_over, self._failure = True, failure
            self._has_news.set()

    async def read(self) -> AsyncGenerator[bytes, None]:
        """The head, then pieces until the end. Raises the failure that the answer ended with."""
        has_head = False
        while not self.is_over or self._waiting:
            await self._has_news.wait()
            self._has_news.clear()
            waiting, self._waiting = self._waiting, []
            if waiting and not has_head:
                yield waiting.pop(0)
                has_head = True
            if waiting:
                yield b"".join(waiting)
        if self._failure is not None:
            raise self._failure
