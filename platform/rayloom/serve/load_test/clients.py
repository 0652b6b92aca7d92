"""Clients that load an endpoint and measure it: time to first token, time per token, whole latency, tokens per second.

Each client asks, reads the stream to its end, and asks again. Time is taken where the bytes arrive, so queueing in the
server counts and decoding in the client does not.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

import aiohttp
import numpy as np

from rayloom.serve.transport.asgi_call import REPLICA_HEADER

_SUBJECTS = (
    "the sea",
    "a mountain village",
    "an old clock",
    "the first train",
    "bread",
    "a rainy day",
    "the moon",
    "bees",
)


@dataclass(frozen=True)
class Answer:
    """One request and what came back."""

    started_seconds: float
    """Of the load's own clock, which begins at 0."""
    status: int
    first_token_seconds: float | None
    """After the request was sent; None where no token came."""
    total_seconds: float
    num_tokens: int
    replica: str = ""
    error: str = ""

    @property
    def is_whole(self) -> bool:
        return self.status == 200 and not self.error


@dataclass(frozen=True)
class Request:
    """What a client sends."""

    prompt: str
    max_new_tokens: int
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of the body, such as `ignore_eos`."""


async def ask(session: aiohttp.ClientSession, url: str, model: str, request: Request, began: float) -> Answer:
    """One streamed chat request."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": request.prompt}],
        "max_tokens": request.max_new_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **request.extra,
    }
    sent = time.perf_counter()
    first: float | None = None
    num_tokens, status, replica, error = 0, 0, "", ""
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            status, replica = response.status, response.headers.get(REPLICA_HEADER, "")
            if status != 200:
                error = _message(await response.read())
            else:
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    chunk = json.loads(line[6:])
                    if first is None and _has_text(chunk):
                        first = time.perf_counter() - sent
                    num_tokens = (chunk.get("usage") or {}).get("completion_tokens", num_tokens)
                    error = error or (chunk.get("error") or {}).get("message", "")
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Answer(sent - began, status, first, time.perf_counter() - sent, num_tokens, replica, error)


def _has_text(chunk: dict[str, Any]) -> bool:
    return any((choice.get("delta") or {}).get("content") for choice in chunk.get("choices", ()))


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return body[:200].decode("utf-8", "replace")


@dataclass
class Load:
    """A running closed loop; `answers` grows while it runs."""

    url: str
    model: str
    requests: Sequence[Request]
    num_clients: int
    answers: list[Answer] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    async def run(self, is_over: Callable[[Load], bool], tick: Callable[[Load], Awaitable[None]] | None = None) -> None:
        """Every client asks the next request, over and over, until `is_over`; those under way are read to their end."""
        began = time.perf_counter()
        number = 0
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self.headers) as session:

            async def client() -> None:
                nonlocal number
                while not is_over(self):
                    request = self.requests[number % len(self.requests)]
                    number += 1
                    answer = await ask(session, self.url, self.model, request, began)
                    self.answers.append(answer)
                    if not answer.is_whole:
                        await asyncio.sleep(0.2)  # a refusing server is not asked a thousand times a second

            async def ticking() -> None:
                while tick is not None:
                    await tick(self)
                    await asyncio.sleep(1)

            ticker = asyncio.create_task(ticking())
            try:
                await asyncio.gather(*(client() for _ in range(self.num_clients)))
            finally:
                ticker.cancel()


@dataclass(frozen=True)
class Percentiles:
    """In seconds."""

    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True)
class Summary:
    """What the clients saw."""

    num_requests: int
    num_failed: int
    seconds: float
    tokens_per_second: float
    requests_per_second: float
    time_to_first_token: Percentiles | None
    time_per_output_token: Percentiles | None
    latency: Percentiles | None
    requests_by_replica: dict[str, int]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def summary(answers: Sequence[Answer]) -> Summary:
    """Over whole answers, from the first request sent to the last answer read."""
    whole = [answer for answer in answers if answer.is_whole]
    seconds = max((a.started_seconds + a.total_seconds for a in whole), default=0.0)
    seconds -= min((a.started_seconds for a in whole), default=0.0)
    per_token = [
        (a.total_seconds - a.first_token_seconds) / (a.num_tokens - 1)
        for a in whole
        if a.first_token_seconds is not None and a.num_tokens > 1
    ]
    replicas = sorted({a.replica for a in whole if a.replica})
    return Summary(
        num_requests=len(answers),
        num_failed=len(answers) - len(whole),
        seconds=round(seconds, 3),
        tokens_per_second=_rate(sum(a.num_tokens for a in whole), seconds),
        requests_per_second=_rate(len(whole), seconds),
        time_to_first_token=percentiles([a.first_token_seconds for a in whole if a.first_token_seconds is not None]),
        time_per_output_token=percentiles(per_token),
        latency=percentiles([a.total_seconds for a in whole]),
        requests_by_replica={replica: sum(a.replica == replica for a in whole) for replica in replicas},
    )


def percentiles(values: Sequence[float]) -> Percentiles | None:
    if not values:
        return None
    p50, p90, p99, largest = np.percentile(values, (50, 90, 99, 100))
    return Percentiles(*(round(float(value), 4) for value in (p50, p90, p99, largest)))


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds else 0.0


def prompts() -> Iterator[str]:
    """Different questions without end, so that no answer comes out of the prefix cache whole."""
    for number in count():
        yield f"Tell me story number {number + 1} about {_SUBJECTS[number % len(_SUBJECTS)]}."
