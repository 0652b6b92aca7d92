"""One request to a model's replicas: nothing reaches the client before the first piece of the answer is there.

If the replica dies before that, the request is sent again and the client only waits longer. After it, an answer cannot
start again, and the client is told that it ends early.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from rayloom.serve.transport.asgi_call import REPLICA_HEADER, Headers, read_head
from rayloom.serve.transport.error_responses import RATE, SERVER, Refusal, header

MAX_ATTEMPTS = 5
"""A request that kills each replica that computes it must not be sent for ever."""
FIRST_PAUSE_SECONDS = 0.1
QUEUE_PAUSE_SECONDS = 0.2


class ReplicaLost(Exception):  # noqa: N818 (a state that the relay acts on)
    """The replica died, or cannot be reached."""


class QueueFull(Exception):  # noqa: N818
    """The model's queue is full."""


@dataclass(frozen=True)
class Call:
    """What a replica is asked."""

    path: str
    headers: Headers
    body: bytes
    adapter: str = ""
    """As the engine knows it; empty for the model alone."""


class Backend(Protocol):
    """Answers requests for one version of a model with frames (see `asgi_call`)."""

    def ask(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Raises ReplicaLost or QueueFull. Closing it early ends the computation."""
        ...


@dataclass
class Reply:
    """An answer whose first piece is there."""

    status: int
    headers: list[tuple[bytes, bytes]]
    first: bytes
    rest: AsyncGenerator[bytes, None]
    """Raises ReplicaLost if it ends early. The caller closes it."""
    num_attempts: int

    @property
    def replica(self) -> str:
        return header(self.headers, REPLICA_HEADER.encode()) or ""


async def begin(choose: Callable[[], Awaitable[Backend]], call: Call) -> Reply:
    """Sends the request, and again if a replica is lost before the first piece. Raises Refusal.

    `choose` is called for each attempt, since the version of the last one may be gone by then. A request that was
    accepted once waits in the queue again even if that is full: only new requests are refused.
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
