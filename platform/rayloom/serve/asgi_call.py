"""One request through an ASGI application inside this process, answered as byte frames.

The first frame is the head as JSON, `{"status": 200, "headers": [["content-type", "…"], …]}`; each further frame is a
piece of the body, ready to be sent on. Pieces that were written while the reader was busy come joined, so a slow reader
costs fewer frames and a fast one waits for nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

REPLICA_HEADER = "x-rayloom-replica"
"""Says which replica answered."""


class _Exchange:
    """The two ends of one call: what the application reads, and the frames it wrote that were not read yet."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._frames: list[bytes] = []
        self._wrote = asyncio.Event()
        self._is_over = False
        self.hung_up = asyncio.Event()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._frames.append(head_frame(message["status"], message.get("headers", ())))
        elif message["type"] == "http.response.body" and message.get("body"):
            self._frames.append(bytes(message["body"]))
        self._wrote.set()

    def end(self, _: object = None) -> None:
        self._is_over = True
        self._wrote.set()

    @property
    def is_read(self) -> bool:
        return self._is_over and not self._frames

    async def read(self) -> list[bytes]:
        """What was written since the last read, waiting for at least one frame or the end."""
        await self._wrote.wait()
        self._wrote.clear()
        frames, self._frames = self._frames, []
        return frames


async def called(
    application: Application, path: str, headers: Headers, body: bytes, *, method: str = "POST"
) -> AsyncGenerator[bytes, None]:
    """The frames of the answer. Closing this iterator early tells the application that the client hung up.

    Raises whatever the application raises.
    """
    exchange = _Exchange(body)
    scope = _scope(path, headers, method)
    task = asyncio.ensure_future(application(scope, exchange.receive, exchange.send))
    task.add_done_callback(exchange.end)
    has_head = False
    try:
        while not exchange.is_read:
            frames = await exchange.read()
            if frames and not has_head:
                yield frames.pop(0)
                has_head = True
            if frames:
                yield b"".join(frames)
        await task
    finally:
        exchange.hung_up.set()
        if not task.done():
            task.cancel()


def head_frame(status: int, headers: Headers) -> bytes:
    shown = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]
    return json.dumps({"status": status, "headers": shown}).encode()


def with_header(head: bytes, name: str, value: str) -> bytes:
    """The head frame with one more header."""
    status, headers = read_head(head)
    return head_frame(status, [*headers, (name.encode("latin-1"), value.encode("latin-1"))])


def read_head(frame: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Status and headers of a head frame."""
    head = json.loads(frame)
    return int(head["status"]), [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]]


def _scope(path: str, headers: Headers, method: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": None,
        "server": None,
    }
