"""The way back of answers: one connection from each replica to each gateway, on which the pieces of all answers travel.

A request goes to its replica through Ray Serve, which queues, balances and counts it. Through Serve its answer would be
one gRPC message for each token of each request, passed through two event loops on either side; here, all that one step
of the engine makes for all requests is one write and one read. The connection also says at once when a replica is gone.

On the wire: the gateway's secret; then frames (see `frames`), each after its length in bytes and its request's number.
An empty frame ends an answer. Like Serve's own connections between nodes, it is not encrypted.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import cast

from rayloom.serve.transport.frames import Frames
from rayloom.serve.transport.relay import ReplicaLost

SECRET_BYTES = 32
SECRET_WITHIN_SECONDS = 10.0
"""Whoever connects and does not know the secret is sent away, and so is whoever says nothing for so long."""
CONNECT_SECONDS = 5.0
_BEFORE_FRAME = struct.Struct("!IQ")
_LOG = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class WayBack:
    """Where the answer to one request is awaited."""

    host: str
    port: int
    secret: bytes
    number: int


# -- the gateway's end -------------------------------------------------------------------------------------------------


@dataclass
class _Awaited:
    """An answer that some replica will send."""

    frames: Frames
    line: Incoming | None = None
    """The connection that it comes by, once it does."""


class Switchboard:
    """Takes the replicas' connections, and gives each frame to the request that waits for it."""

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(SECRET_BYTES)
        self._awaited: dict[int, _Awaited] = {}
        self._lines: set[Incoming] = set()
        self._numbers = count(1)
        self._server: asyncio.Server | None = None
        self._address = ("", 0)

    async def open(self, host: str) -> None:
        """Listens on any free port of this address."""
        self._server = await asyncio.get_running_loop().create_server(lambda: Incoming(self), host, 0)
        self._address = (host, self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for line in tuple(self._lines):
            line.close()

    @property
    def num_lines(self) -> int:
        return len(self._lines)

    @contextmanager
    def expecting(self) -> Iterator[tuple[WayBack | None, Frames]]:
        """Where the answer to a new request may be sent, and its frames; no such place where this is not open."""
        number, frames = next(self._numbers), Frames()
        self._awaited[number] = _Awaited(frames)
        try:
            yield WayBack(*self._address, self.secret, number) if self._server is not None else None, frames
        finally:
            del self._awaited[number]

    def arrived(self, number: int, frame: bytes, line: Incoming) -> None:
        awaited = self._awaited.get(number)
        if awaited is None:
            return  # its client left
        awaited.line = line
        if frame:
            awaited.frames.put(frame)
        else:
            awaited.frames.end()

    def made(self, line: Incoming) -> None:
        self._lines.add(line)

    def lost(self, line: Incoming) -> None:
        self._lines.discard(line)
        for awaited in self._awaited.values():
            if awaited.line is line:
                awaited.frames.end(ReplicaLost())


class Incoming(asyncio.Protocol):
    """A connection that a replica made."""

    def __init__(self, board: Switchboard) -> None:
        self._board, self._is_known, self._read = board, False, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._patience = asyncio.get_running_loop().call_later(SECRET_WITHIN_SECONDS, transport.close)
        self._board.made(self)

    def data_received(self, data: bytes) -> None:
        self._read += data
        if self._is_known or self._is_let_in():
            self._take_frames()

    def connection_lost(self, _: Exception | None) -> None:
        self._patience.cancel()
        self._board.lost(self)

    def close(self) -> None:
        self._transport.close()

    def _is_let_in(self) -> bool:
        if len(self._read) < SECRET_BYTES:
            return False
        if not hmac.compare_digest(self._read[:SECRET_BYTES], self._board.secret):
            self._transport.close()
            return False
        del self._read[:SECRET_BYTES]
        self._patience.cancel()
        self._is_known = True
        return True

    def _take_frames(self) -> None:
        read, at = self._read, 0
        while len(read) - at >= _BEFORE_FRAME.size:
            length, number = _BEFORE_FRAME.unpack_from(read, at)
            begin = at + _BEFORE_FRAME.size
            if len(read) < begin + length:
                break
            at = begin + length
            self._board.arrived(number, bytes(read[begin:at]), self)
        del read[:at]


# -- the replica's end -------------------------------------------------------------------------------------------------


class Line(asyncio.Protocol):
    """A connection to a gateway. What is written in one turn of the event loop is sent at once, in one piece."""

    def __init__(self, secret: bytes) -> None:
        self._unsent = [secret]
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._send()

    def connection_lost(self, _: Exception | None) -> None:
        self.is_lost = True

    def write(self, number: int, frame: bytes) -> None:
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent += (_BEFORE_FRAME.pack(len(frame), number), frame)

    def end(self, number: int) -> None:
        self.write(number, b"")

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self.is_lost:
            self._transport.write(b"".join(unsent))


class Lines:
    """A replica's connections, by gateway."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int, bytes], asyncio.Task[Line | None]] = {}

    async def to(self, back: WayBack) -> Line | None:
        """The connection to a gateway, made where there is none; None where it cannot be reached from here."""
        key = (back.host, back.port, back.secret)
        made = self._lines.get(key)
        if made is None or (made.done() and (line := made.result()) is not None and line.is_lost):
            made = self._lines[key] = asyncio.ensure_future(_connected(back))
        return await asyncio.shield(made)


async def _connected(back: WayBack) -> Line | None:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, line = await asyncio.get_running_loop().create_connection(
                lambda: Line(back.secret), back.host, back.port
            )
    except OSError as error:  # TimeoutError is one too
        _LOG.warning("no way to the gateway at %s:%d (%s): answers go through Ray Serve", back.host, back.port, error)
        return None
    return line
