"""Calls of an ASGI application in this process, answered as byte frames; their queue; and a replica's HTTP server.

The first frame is the head as JSON, `{"status": 200, "headers": [["content-type", "…"], …]}`; each further frame is a
part of the body, sent on unchanged.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import aclosing
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

REPLICA_HEADER = "x-rayloom-replica"
"""Header with the name of the replica that answered."""
DISCONNECT_SECONDS = 5.0
"""How long an application can continue after its client has disconnected."""


class _Exchange:
    """The two ends of a call: the application receives the request's body, and `write` gets the answer's frames."""

    def __init__(self, body: bytes, write: Callable[[bytes], None]) -> None:
        self._body: bytes | None = body
        self._write = write
        self.disconnected = asyncio.Event()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._write(head_frame(message["status"], message.get("headers", ())))
        elif message["type"] == "http.response.body" and message.get("body"):
            self._write(bytes(message["body"]))


class OngoingCall:
    """One request that an application is answering."""

    def __init__(self, task: asyncio.Task[None], exchange: _Exchange) -> None:
        self.task, self._exchange = task, exchange

    def failure(self) -> BaseException | None:
        """The exception that the application raised; None if it is running or succeeded."""
        return asyncio.CancelledError() if self.task.cancelled() else self.task.exception()

    def disconnect(self) -> None:
        """Tells the application that the client has disconnected, and cancels it after DISCONNECT_SECONDS.

        It is not cancelled at once because, for answers that are not streams, vLLM aborts the request on a disconnect,
        but not if its caller is cancelled.
        """
        self._exchange.disconnected.set()
        if not self.task.done():
            timer = asyncio.get_running_loop().call_later(DISCONNECT_SECONDS, self.task.cancel)
            self.task.add_done_callback(lambda _: timer.cancel())


def start_call(
    application: Application,
    path: str,
    headers: Headers,
    body: bytes,
    write: Callable[[bytes], None],
    *,
    method: str = "POST",
) -> OngoingCall:
    """Starts a request; `write` is called with each frame of the answer in order."""
    exchange = _Exchange(body, write)
    answer = application(_scope(path, headers, method), exchange.receive, exchange.send)
    return OngoingCall(asyncio.ensure_future(_whole(answer)), exchange)


async def _whole(answer: Awaitable[None]) -> None:
    await answer


async def call_application(
    application: Application, path: str, headers: Headers, body: bytes, *, method: str = "POST"
) -> AsyncGenerator[bytes, None]:
    """The frames of the answer. Closing this iterator early tells the application that the client has disconnected.

    Raises whatever the application raises.
    """
    frames = Frames()
    running = start_call(application, path, headers, body, frames.put, method=method)
    running.task.add_done_callback(lambda _: frames.end(running.failure()))
    try:
        async with aclosing(frames.read()) as written:
            async for frame in written:
                yield frame
    finally:
        running.disconnect()


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


# The queue of one answer's frames, between its writer and its reader.
#
# Parts of the body that are written while the reader is busy are joined, so a slow reader gets fewer and larger parts,
# and a fast one gets each part at once.


class Frames:
    """A queue of frames that ends, possibly with an exception."""

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
        """Ends the queue; frames written before are still read. Only the first call has an effect."""
        if not self.is_over:
            self.is_over, self._failure = True, failure
            self._has_news.set()

    async def read(self) -> AsyncGenerator[bytes, None]:
        """The head, then parts of the body until the end. Raises the exception with which the answer ended."""
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


# The HTTP server in a replica that listens on the service's port.

BACKLOG = 2048
DRAIN_SECONDS = 10.0
"""Time for running requests to finish when the service stops."""


def bound(host: str, port: int) -> socket.socket:
    """A socket whose port other replicas on this node can bind too; the kernel distributes connections."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(address)
    return listening


class Listener:
    """An HTTP server for an application on a socket, in the event loop of the caller."""

    def __init__(self, server: Any, serving: asyncio.Task[None]) -> None:
        self._server, self.serving = server, serving

    @classmethod
    async def opened(cls, application: Application, bound_socket: socket.socket) -> Listener:
        import uvicorn

        config = uvicorn.Config(
            application, log_config=None, access_log=False, lifespan="off", ws="none", backlog=BACKLOG,
            timeout_graceful_shutdown=int(DRAIN_SECONDS),
        )  # fmt: skip
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[bound_socket]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if serving.done():
            serving.result()
        return cls(server, serving)

    @property
    def is_open(self) -> bool:
        return not self.serving.done()

    async def close(self) -> None:
        """Stops accepting requests, and returns when the running ones are answered or after DRAIN_SECONDS."""
        self._server.should_exit = True
        await asyncio.wait({self.serving})
