"""One request through an ASGI application: frames as they are written, and a client that hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rayloom.serve.transport import asgi_call
from rayloom.serve.transport.asgi_call import (
    Application,
    Receive,
    Scope,
    Send,
    call_application,
    read_head,
    with_header,
)


async def frames_of(application: Application, body: bytes = b"") -> list[bytes]:
    return [frame async for frame in call_application(application, "/path", [(b"a", b"b")], body)]


def application(answer: Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]) -> Application:
    return answer


async def start(send: Send, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"x", b"y")]})


async def write(send: Send, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def test_head_and_body_arrive_as_frames() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        await start(send, 201)
        await write(send, scope["path"].encode() + dict(scope["headers"])[b"a"] + body, more=False)

    head, body = asyncio.run(frames_of(echo, b"!"))
    assert read_head(head) == (201, [(b"x", b"y")])
    assert body == b"/pathb!"


def test_pieces_written_while_the_reader_is_busy_come_joined() -> None:
    async def burst(_: Scope, __: Receive, send: Send) -> None:
        await start(send)
        for number in range(5):
            await write(send, str(number).encode())
        await asyncio.sleep(0.01)
        await write(send, b"late", more=False)

    assert asyncio.run(frames_of(burst))[1:] == [b"01234", b"late"]


def test_what_the_application_raises_reaches_the_caller() -> None:
    async def broken(_: Scope, __: Receive, send: Send) -> None:
        await start(send)
        raise ZeroDivisionError("inside")

    with pytest.raises(ZeroDivisionError, match="inside"):
        asyncio.run(frames_of(broken))


def test_closing_early_tells_the_application_that_the_client_left() -> None:
    seen: list[str] = []

    async def patient(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await start(send)
        await write(send, b"first")
        try:
            seen.append((await receive())["type"])
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def disconnect() -> None:
        answer = call_application(patient, "/", [], b"")
        await anext(answer)
        await anext(answer)
        await answer.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)

    asyncio.run(disconnect())
    assert seen == ["http.disconnect"]


def test_an_application_that_ignores_the_disconnect_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_call, "DISCONNECT_SECONDS", 0.01)
    ended = asyncio.Event()

    async def deaf(_: Scope, __: Receive, send: Send) -> None:
        await start(send)
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def disconnect() -> None:
        answer = call_application(deaf, "/", [], b"")
        await anext(answer)
        await answer.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(ended.wait(), 5)

    asyncio.run(disconnect())


def test_a_header_can_be_added_to_a_head() -> None:
    async def plain(_: Scope, __: Receive, send: Send) -> None:
        await start(send)

    (head,) = asyncio.run(frames_of(plain))
    assert read_head(with_header(head, "x-replica", "r1"))[1] == [(b"x", b"y"), (b"x-replica", b"r1")]
