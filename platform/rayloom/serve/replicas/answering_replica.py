"""The base of replicas: requests come by Serve's handle, answers go to the gateway by the answer channel."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

from rayloom.serve.transport.answer_channel import GatewayConnections, ReplyAddress
from rayloom.serve.transport.asgi_call import Frames, Headers

Write = Callable[[bytes], None]


class AnsweringReplica(ABC):
    """A Ray Serve deployment whose method `http` answers one request with frames (see `asgi_call`)."""

    def __init__(self) -> None:
        self._connections = GatewayConnections()

    @abstractmethod
    async def answer(self, path: str, headers: Headers, body: bytes, write: Write) -> None:
        """Writes an answer's frames. Cancelled if the client disconnects."""

    async def http(
        self, path: str, headers: Headers, body: bytes, reply_to: ReplyAddress | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The answer's frames; or one empty frame at the end, if they were sent by the answer channel."""
        connection = await self._connections.to(reply_to) if reply_to is not None else None
        if connection is None or reply_to is None:
            async for frame in self._frames(path, headers, body):
                yield frame
            return
        await self.answer(path, headers, body, partial(connection.write, reply_to.number))
        connection.end(reply_to.number)
        if connection.is_lost:
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
