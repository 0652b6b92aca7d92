"""The client's side of one request: reads its body, sends its answer, and fills in its access record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rayloom.serve.gateway.access_log import AccessRecord, Stopwatch
from rayloom.serve.transport.asgi_call import Headers, Receive, Scope, Send
from rayloom.serve.transport.relay import Refusal, error_event


@dataclass
class ClientRequest:
    """A request that is being answered."""

    scope: Scope
    receive: Receive
    send: Send
    record: AccessRecord
    watch: Stopwatch
    has_begun: bool = False
    """Whether the head of the answer was sent."""
    has_ended: bool = False
    """Whether the whole answer was sent."""


class ClientLeft(Exception):  # noqa: N818 (no error to show: nobody is there)
    """The client disconnected before it had its whole answer."""


@contextmanager
def cancelled_without_client(request: ClientRequest) -> Iterator[None]:
    """Cancels the code inside when the client disconnects, and raises ClientLeft. The body must have been read."""
    answering = asyncio.current_task()
    assert answering is not None
    watching = asyncio.ensure_future(_watch_client(request, answering))
    try:
        yield
    except asyncio.CancelledError:
        if not watching.done() or watching.cancelled():
            raise
        answering.uncancel()
        raise ClientLeft from None
    finally:
        watching.cancel()


async def _watch_client(request: ClientRequest, answering: asyncio.Task[Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    if not request.has_ended:
        answering.cancel()


async def read_body(request: ClientRequest, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            raise Refusal(413, f"The request is larger than {max_bytes} bytes.", code="request_too_large")
        if not message.get("more_body"):
            return b"".join(parts)


async def send_json(request: ClientRequest, status: int, value: Any) -> None:
    request.record.status = status
    await send_response(request, status, [(b"content-type", b"application/json")], json.dumps(value).encode())


async def send_response(request: ClientRequest, status: int, headers: Headers, body: bytes) -> None:
    await start_response(request, status, [*headers, (b"content-length", str(len(body)).encode())])
    await send_piece(request, body if request.record.method != "HEAD" else b"", more=False)


async def start_response(request: ClientRequest, status: int, headers: Headers) -> None:
    request.record.status = status
    request.has_begun = True
    await request.send({"type": "http.response.start", "status": status, "headers": headers})


async def forward_piece(request: ClientRequest, body: bytes) -> None:
    request.record.num_pieces += body.count(b"data: ")
    await send_piece(request, body, more=True)


async def send_piece(request: ClientRequest, body: bytes, *, more: bool) -> None:
    request.record.answer_bytes += len(body)
    request.has_ended = not more
    await request.send({"type": "http.response.body", "body": body, "more_body": more})


async def refuse(request: ClientRequest, refusal: Refusal) -> None:
    """Sends an error as the answer, or as the last event of a stream that has begun."""
    record = request.record
    if not request.has_begun:
        await send_response(request, refusal.status, refusal.headers(), refusal.body(record.request_id))
        return
    event = error_event(refusal.message, refusal.code or "", record.request_id)
    await send_piece(request, event, more=False)
