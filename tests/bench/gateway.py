"""What the gateway costs a request, beside the same route written with Starlette's Request, router and responses.

Both call the same backend, a plain function, in one process and without sockets, so only their own work is timed.
`python tests/bench/gateway.py [--save]`; the last line is one JSON object, microseconds and ratios to the gateway's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from hardware import hardware
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from rayloom.serve.gateway.access_log import AccessRecord, Stopwatch
from rayloom.serve.gateway.admission import Admission
from rayloom.serve.gateway.application import Gateway, RequestLimits
from rayloom.serve.gateway.routes import single_versions
from rayloom.serve.transport.asgi_call import Application, Message, head_frame
from rayloom.serve.transport.relay import Call, begin

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Who are you? " * 20}]}).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
ROUNDS, REQUESTS = 9, 300


class Backend:
    """Answers with so many pieces, at once."""

    def __init__(self, num_pieces: int) -> None:
        self._pieces = [b'data: {"choices": []}\n\n'] * num_pieces

    async def ask(self, call: Call) -> AsyncGenerator[bytes, None]:
        del call
        yield head_frame(200, [(b"content-type", b"text/event-stream")])
        for piece in self._pieces:
            await asyncio.sleep(0)
            yield piece


def with_starlette(backend: Backend) -> Application:
    """The same steps: body, model, admission, relay, pieces, and a record at the end."""
    routes, admission = single_versions({"m": backend}), Admission(None, None)

    async def chat(request: Request) -> Response:
        record, watch = AccessRecord("id", request.method, request.url.path), Stopwatch()
        record.caller = admission.admit(request.scope["headers"])
        body = await request.body()
        asked = json.loads(body)
        call = Call(record.path, HEADERS, body)

        async def choose() -> Any:
            return (await routes.resolve(asked["model"])).backend

        reply = await begin(choose, call)

        async def pieces() -> AsyncIterator[bytes]:
            yield reply.first
            async for piece in reply.rest:
                record.num_pieces += piece.count(b"data: ")
                yield piece
            record.seconds = watch.seconds()

        return StreamingResponse(pieces(), reply.status, dict(_text(reply.headers)))

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def _text(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode(), value.decode()) for name, value in headers]


async def one_request(application: Application) -> int:
    """The number of messages that came back."""
    has_sent, has_ended, num_sent = False, asyncio.Event(), 0

    async def receive() -> Message:
        nonlocal has_sent
        if has_sent:
            await has_ended.wait()
            return {"type": "http.disconnect"}
        has_sent = True
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal num_sent
        del message
        num_sent += 1

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "query_string": b"",
        "root_path": "", "headers": HEADERS, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await application(scope, receive, send)
    has_ended.set()
    return num_sent


async def microseconds(application: Application) -> float:
    began = time.perf_counter()
    for _ in range(REQUESTS):
        assert await one_request(application) > 2
    return (time.perf_counter() - began) / REQUESTS * 1e6


async def compared(num_pieces: int) -> dict[str, float]:
    backend = Backend(num_pieces)
    sides: dict[str, Callable[[], Awaitable[float]]] = {
        "gateway": lambda: microseconds(
            Gateway(
                single_versions({"m": backend}), Admission(None, None), RequestLimits(1 << 20, 600.0), lambda _: None
            )
        ),
        "starlette": lambda: microseconds(with_starlette(backend)),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            times[name].append(await side())
    return {name: round(median(found), 1) for name, found in times.items()}


def main() -> None:
    result: dict[str, Any] = {"hardware": hardware(), "date": datetime.now(UTC).date().isoformat()}
    for num_pieces in (1, 64):
        found = asyncio.run(compared(num_pieces))
        result[f"microseconds_{num_pieces}_pieces"] = found
        result[f"starlette_ratio_{num_pieces}_pieces"] = round(found["starlette"] / found["gateway"], 2)
    text = json.dumps(result)
    if "--save" in sys.argv:
        folder = Path(__file__).parent / "results"
        (folder / f"gateway-{hardware()}-{result['date']}.json").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
