"""Frames of one answer, on their way from whoever writes them to one reader.

The first frame is the answer's head (see `asgi_call`); each further frame is a piece of its body. Pieces that were
written while the reader was busy come joined, so a slow reader costs fewer of them and a fast one waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator


class Frames:
    """What was written and not read yet."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._came = asyncio.Event()
        self.is_over = False
        """Whether nothing comes any more."""
        self._failure: BaseException | None = None

    def put(self, frame: bytes) -> None:
        self._waiting.append(frame)
        self._came.set()

    def end(self, failure: BaseException | None = None) -> None:
        """Nothing comes any more; what was written before is still read. The first end counts."""
        if not self.is_over:
            self.is_over, self._failure = True, failure
            self._came.set()

    async def read(self) -> AsyncGenerator[bytes, None]:
        """The head, then pieces until the end. Raises the failure that the answer ended with."""
        has_head = False
        while not self.is_over or self._waiting:
            await self._came.wait()
            self._came.clear()
            waiting, self._waiting = self._waiting, []
            if waiting and not has_head:
                yield waiting.pop(0)
                has_head = True
            if waiting:
                yield b"".join(waiting)
        if self._failure is not None:
            raise self._failure
