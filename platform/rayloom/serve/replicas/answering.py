"""What every replica of the gateway has: requests come by Serve's handle, and answers go the way that it names."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

from rayloom.serve.transport.answer_channel import Lines, WayBack
from rayloom.serve.transport.asgi_call import Headers
from rayloom.serve.transport.frames import Frames

Write = Callable[[bytes], None]


class AnsweringReplica(ABC):
    """A Ray Serve deployment: `http` answers one request by frames (see `asgi_call`)."""

    def __init__(self) -> None:
        self._lines = Lines()

    @abstractmethod
    async def answer(self, path: str, headers: Headers, body: bytes, write: Write) -> None:
        """Writes an answer's frames. Cancelled where the client is gone."""

    async def http(
        self, path: str, headers: Headers, body: bytes, back: WayBack | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The frames; or none but an empty one at the end, where they went the way back."""
        line = await self._lines.to(back) if back is not None else None
        if line is None or back is None:
            async for frame in self._frames(path, headers, body):
                yield frame
            return
        await self.answer(path, headers, body, partial(line.write, back.number))
        line.end(back.number)
        if line.is_lost:
            raise ConnectionError("the connection to the gateway was lost")
        yield b""

    async def _frames(self, path: str, headers: Headers, body: bytes) -> AsyncGenerator[bytes, None]:
        frames = Frames()
        answer = asyncio.ensure_future(self.answer(path, headers, body, frames.put))
        answer.add_done_callback(lambda _: frames.end(None if answer.cancelled() else answer.exception()))
        try:
            async with aclosing(frames.read()) as written:
                async for frame in written:
                    yield frame
        finally:
            answer.cancel()
