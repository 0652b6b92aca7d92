"""The client's side of one request: reads and checks its body, sends its answer, and fills in its access record."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rayloom.reading.json_array import NOT_TOO_DEEP, is_too_deep
from rayloom.serve.gateway.access_log import AccessRecord, Stopwatch
from rayloom.serve.transport.asgi_call import Headers, Receive, Scope, Send
from rayloom.serve.transport.relay import Refusal, error_event, header

FIELD_TYPES: dict[str, type] = {
    "messages": list, "tools": list, "structured_outputs": dict, "response_format": dict, "stream_options": dict,
}  # fmt: skip
"""Types of fields that vLLM 0.32 reads before it checks them; with a wrong type it would answer 500."""


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


def parsed_body(body: bytes) -> dict[str, Any]:
    """The request's JSON object. Raises Refusal if it is not one or names no model.

    Python's own parser, which the engine has, takes more than JSON: NaN, UTF-16, and half of a surrogate pair as bytes.
    """
    try:
        text = body.decode("utf-8-sig")
        request = _DECODER.decode(text)
        if is_too_deep(request, text):
            raise RecursionError(NOT_TOO_DEEP)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is not JSON that can be read: {error}.", code="invalid_json") from None
    if not isinstance(request, dict) or not isinstance(request.get("model"), str):
        text = "`model` must name a model; GET /v1/models lists them."
        raise Refusal(400, text, code="missing_model", param="model")
    if b"\\ud" in body.lower():
        _require_text(request)
    for name, kind in FIELD_TYPES.items():
        if not isinstance(request.get(name), kind | None):
            wanted = "an object" if kind is dict else "a list"
            raise Refusal(400, f"`{name}` must be {wanted}.", code="wrong_type", param=name)
    return request


def _no_number(written: str) -> float:
    raise ValueError(f"{written[:40]} is no number of JSON, or too large")


def _finite(written: str) -> float:
    value = float(written)
    return value if math.isfinite(value) else _no_number(written)


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_number)


def num_answers(fields: Mapping[str, Any]) -> int:
    """The number of answers that a request asks for: prompts × `n`. The engine refuses an `n` that is not a number."""
    prompts, each = fields.get("prompt"), fields.get("n")
    num_prompts = 1
    if isinstance(prompts, list) and any(isinstance(prompt, str | list) for prompt in prompts):
        num_prompts = len(prompts)
    return num_prompts * (each if isinstance(each, int) else 1)


def _require_text(request: dict[str, Any]) -> None:
    """Raises Refusal for a lone surrogate, which is valid JSON but cannot be encoded as UTF-8."""
    try:
        json.dumps(request, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        text = "A string of the request has half of a surrogate pair (such as `\\ud800`), which is no character."
        raise Refusal(400, text, code="invalid_text") from None


def require_no_encoding(headers: Headers) -> None:
    encoding = header(headers, b"content-encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        text = f"The body has the content encoding {encoding[:40]}: send it without one."
        raise Refusal(415, text, code="unsupported_encoding")


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
