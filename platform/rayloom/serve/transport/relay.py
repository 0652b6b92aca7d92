"""One request to a model's replicas: nothing reaches the client until the first piece of the answer is there.

Until then a replica that dies costs the client nothing but time: the request is asked again. After it, an answer cannot
be begun anew, and the client is told that it ends early.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from rayloom.serve.transport.asgi_call import REPLICA_HEADER, Headers, read_head
from rayloom.serve.transport.error_responses import RATE, SERVER, Refusal, header

MAX_ATTEMPTS = 5
"""A request that kills whatever computes it must not go round for ever."""
FIRST_PAUSE_SECONDS = 0.1
QUEUE_PAUSE_SECONDS = 0.2


class ReplicaLost(Exception):  # noqa: N818 (a state, told apart by the relay)
    """The replica died, or cannot be reached."""


class QueueFull(Exception):  # noqa: N818
    """As many requests wait for this model as may."""


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
    """Raises ReplicaLost where it ends early. To be closed."""
    num_attempts: int

    @property
    def replica(self) -> str:
        return header(self.headers, REPLICA_HEADER.encode()) or ""


async def begin(choose: Callable[[], Awaitable[Backend]], call: Call) -> Reply:
    """Asks, and asks again where a replica is lost before the first piece. Raises Refusal.

    `choose` is called for each attempt, for the version asked before may be gone by then.
    A request that was let in once waits for its turn again, however many others wait: only new ones are refused.
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
