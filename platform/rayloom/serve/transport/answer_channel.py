"""The answer channel: one TCP connection from each replica to each gateway, for the frames of all answers.

Requests go to replicas through Ray Serve, which queues, balances and counts them. Answers through Serve would take one
gRPC message for each token of each request, passed through two event loops on either side. Here, the output of one step
of the engine for all requests is one write and one read. A lost connection also shows at once that its replica is lost.

Wire format: the gateway's secret, then frames (see `asgi_call.Frames`), each after its length in bytes and its
request's number. An empty frame ends an answer. Like Serve's own connections between nodes, it is not encrypted.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import cast

from rayloom.serve.transport.asgi_call import Frames
from rayloom.serve.transport.relay import ReplicaLost

SECRET_BYTES = 32
AUTHENTICATION_SECONDS = 10.0
"""A connection is closed if it sends a wrong secret, or none within this time."""
CONNECT_SECONDS = 5.0
RETRY_SECONDS = 30.0
"""If a gateway cannot be reached, answers go through Ray Serve for this time before the next attempt."""
_FRAME_HEADER = struct.Struct("!IQ")
_LOG = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class ReplyAddress:
    """The gateway's address for the answer to one request."""

    host: str
    port: int
    secret: bytes
    number: int


# -- the gateway's end -------------------------------------------------------------------------------------------------


@dataclass
class _PendingAnswer:
    """An answer that has not ended."""

    frames: Frames
    connection: ReplicaConnection | None = None
    """The connection on which it arrives, known from its first frame on."""


class AnswerReceiver:
    """The gateway's side: accepts the replicas' connections and passes each frame to its request."""

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(SECRET_BYTES)
        self._pending: dict[int, _PendingAnswer] = {}
        self._connections: set[ReplicaConnection] = set()
        self._numbers = count(1)
        self._server: asyncio.Server | None = None
        self._address = ("", 0)

    async def open(self, host: str) -> None:
        """Listens on any free port of this address."""
        self._server = await asyncio.get_running_loop().create_server(lambda: ReplicaConnection(self), host, 0)
        self._address = (host, self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.close()

    @property
    def num_connections(self) -> int:
        return len(self._connections)

    @contextmanager
    def expect(self) -> Iterator[tuple[ReplyAddress | None, Frames]]:
        """The address for the answer to a new request (None if this is not open), and the queue of its frames."""
        number, frames = next(self._numbers), Frames()
        self._pending[number] = _PendingAnswer(frames)
        try:
            yield ReplyAddress(*self._address, self.secret, number) if self._server is not None else None, frames
        finally:
            del self._pending[number]

    def deliver(self, number: int, frame: bytes, connection: ReplicaConnection) -> None:
        pending = self._pending.get(number)
        if pending is None:
            return  # the client disconnected
        pending.connection = connection
        if frame:
            pending.frames.put(frame)
        else:
            pending.frames.end()

    def connected(self, connection: ReplicaConnection) -> None:
        self._connections.add(connection)

    def disconnected(self, connection: ReplicaConnection) -> None:
        self._connections.discard(connection)
        for pending in self._pending.values():
            if pending.connection is connection:
                pending.frames.end(ReplicaLost())


class ReplicaConnection(asyncio.Protocol):
    """A connection from a replica."""

    def __init__(self, receiver: AnswerReceiver) -> None:
        self._receiver, self._is_authenticated, self._read = receiver, False, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._timeout = asyncio.get_running_loop().call_later(AUTHENTICATION_SECONDS, transport.close)
        self._receiver.connected(self)

    def data_received(self, data: bytes) -> None:
        self._read += data
        if self._is_authenticated or self._authenticate():
            self._take_frames()

    def connection_lost(self, _: Exception | None) -> None:
        self._timeout.cancel()
        self._receiver.disconnected(self)

    def close(self) -> None:
        self._transport.close()

    def _authenticate(self) -> bool:
        if len(self._read) < SECRET_BYTES:
            return False
        if not hmac.compare_digest(self._read[:SECRET_BYTES], self._receiver.secret):
            self._transport.close()
            return False
        del self._read[:SECRET_BYTES]
        self._timeout.cancel()
        self._is_authenticated = True
        return True

    def _take_frames(self) -> None:
        read, at = self._read, 0
        while len(read) - at >= _FRAME_HEADER.size:
            length, number = _FRAME_HEADER.unpack_from(read, at)
            begin = at + _FRAME_HEADER.size
            if len(read) < begin + length:
                break
            at = begin + length
            self._receiver.deliver(number, bytes(read[begin:at]), self)
        del read[:at]


# -- the replica's end -------------------------------------------------------------------------------------------------


class GatewayConnection(asyncio.Protocol):
    """A connection to a gateway. All frames written in one turn of the event loop are sent by one write."""

    def __init__(self, secret: bytes) -> None:
        self._unsent = [secret]
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not subclasses of it
        self._send()

    def connection_lost(self, _: Exception | None) -> None:
        self.is_lost = True

    def write(self, number: int, frame: bytes) -> None:
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent += (_FRAME_HEADER.pack(len(frame), number), frame)

    def end(self, number: int) -> None:
        self.write(number, b"")

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self.is_lost:
            self._transport.write(b"".join(unsent))


class GatewayConnections:
    """A replica's connections, by gateway."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._attempts: dict[tuple[str, int, bytes], tuple[asyncio.Task[GatewayConnection | None], float]] = {}

    async def to(self, reply_to: ReplyAddress) -> GatewayConnection | None:
        """The connection to a gateway, opened if there is none; None if it cannot be reached from here."""
        key = (reply_to.host, reply_to.port, reply_to.secret)
        if key not in self._attempts or self._is_over(*self._attempts[key]):
            self._attempts[key] = (asyncio.ensure_future(_connected(reply_to)), self._clock())
        return await asyncio.shield(self._attempts[key][0])

    def _is_over(self, attempt: asyncio.Task[GatewayConnection | None], began_seconds: float) -> bool:
        if not attempt.done():
            return False
        connection = attempt.result()
        return self._clock() - began_seconds > RETRY_SECONDS if connection is None else connection.is_lost


async def _connected(reply_to: ReplyAddress) -> GatewayConnection | None:
    host, port = reply_to.host, reply_to.port
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: GatewayConnection(reply_to.secret), host, port)
    except OSError as error:  # TimeoutError is one too
        _LOG.warning("the gateway at %s:%d cannot be reached (%s): answers go through Ray Serve", host, port, error)
        return None
    return connection
