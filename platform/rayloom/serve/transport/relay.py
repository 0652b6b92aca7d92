"""Relays one request to a model's replicas, with retries until the answer begins; and errors in OpenAI's form.

Nothing is sent to the client before the first part of the answer has arrived. If the replica dies before, the request
is sent again and the client only waits longer. If it dies later, the client is told that the answer is incomplete.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rayloom.serve.transport.asgi_call import REPLICA_HEADER, Headers, read_head

MAX_ATTEMPTS = 5
"""Most attempts, so that a request that crashes every replica is not repeated for ever."""
FIRST_PAUSE_SECONDS = 0.1
QUEUE_PAUSE_SECONDS = 0.2


class ReplicaLost(Exception):  # noqa: N818 (a state that the relay acts on)
    """The replica died, or cannot be reached."""


class QueueFull(Exception):  # noqa: N818
    """The model's queue is full."""


@dataclass(frozen=True)
class Call:
    """A request to a replica."""

    path: str
    headers: Headers
    body: bytes
    adapter: str = ""
    """The engine's name of the adapter; empty for the model without one."""


class Backend(Protocol):
    """Answers requests for one version of a model with frames (see `asgi_call`)."""

    def ask(self, call: Call) -> AsyncGenerator[bytes, None]:
        """The frames of the answer. Raises ReplicaLost or QueueFull. Closing it early aborts the request."""
        ...


@dataclass
class Reply:
    """An answer whose first part has arrived."""

    status: int
    headers: list[tuple[bytes, bytes]]
    first: bytes
    rest: AsyncGenerator[bytes, None]
    """The rest of the body. Raises ReplicaLost if it ends early. The caller closes it."""
    num_attempts: int

    @property
    def replica(self) -> str:
        return header(self.headers, REPLICA_HEADER.encode()) or ""


async def begin(choose: Callable[[], Awaitable[Backend]], call: Call) -> Reply:
    """Sends the request, again if a replica is lost before the first part of its answer. Raises Refusal.

    `choose` is called for each attempt, because the version of the last one can be gone. A request that was accepted
    once is queued again even if the queue is full: only new requests are refused.
    """
    num_lost = 0
    while num_lost < MAX_ATTEMPTS:
        frames = (await choose()).ask(call)
        try:
            status, answered = read_head(await anext(frames))
            return Reply(status, answered, await anext(frames, b""), frames, num_lost + 1)
        except QueueFull:
            await frames.aclose()
            if not num_lost:
                text = "Too many requests wait for this model: try again soon."
                raise Refusal(429, text, kind=RATE, code="queue_full", retry_after_seconds=1) from None
            await asyncio.sleep(QUEUE_PAUSE_SECONDS)
        except (ReplicaLost, StopAsyncIteration):
            await frames.aclose()
            await asyncio.sleep(FIRST_PAUSE_SECONDS * 2**num_lost)
            num_lost += 1
    text = f"The model's replicas were lost {MAX_ATTEMPTS} times while they computed this request."
    raise Refusal(503, text, kind=SERVER, code="replica_lost")


# Error answers in OpenAI's format.

INVALID, AUTHENTICATION, RATE, SERVER = (
    "invalid_request_error",
    "authentication_error",
    "rate_limit_error",
    "server_error",
)


class Refusal(Exception):  # noqa: N818 (an answer, not a defect)
    """The error answer to a request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param
        self.retry_after_seconds = retry_after_seconds

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", b"application/json")]
        if self.retry_after_seconds is not None:
            headers.append((b"retry-after", str(max(1, round(self.retry_after_seconds))).encode()))
        if self.status == 415:
            headers.append((b"accept-encoding", b"identity"))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers

    def body(self, request_id: str) -> bytes:
        return error_body(self.message, self.kind, self.code, self.param, request_id)


def error_body(message: str, kind: str, code: str | None, param: str | None, request_id: str) -> bytes:
    error = {"message": message, "type": kind, "param": param, "code": code, "request_id": request_id}
    return json.dumps({"error": error}).encode()


def as_openai_error(status: int, body: bytes, request_id: str, missing_path: str) -> bytes:
    """The body of an engine's error in OpenAI's form; vLLM has the status as `code` and a class name as `type`.

    `missing_path`: the message if the engine has no such path, because its own is only "Not Found".
    """
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    error: Any = answer.get("error", answer) if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    if answer == {"detail": "Not Found"}:
        message = missing_path
    if not isinstance(message, str):
        message = body[:500].decode("utf-8", "replace") or f"The engine answered {status}."
    param = error.get("param") if isinstance(error, dict) else None
    kind = SERVER if status >= 500 else INVALID
    return error_body(message, kind, None, param if isinstance(param, str) else None, request_id)


def error_event(message: str, code: str, request_id: str) -> bytes:
    """The last event of a stream that cannot continue, so that a client does not take it for a complete answer."""
    return b"data: " + error_body(message, SERVER, code, None, request_id) + b"\n\n"


def header(headers: Headers, name: bytes) -> str | None:
    """The last value of a header (its name in lower case, as in ASGI), or None."""
    values = [value for key, value in headers if key == name]
    return values[-1].decode("latin-1") if values else None
