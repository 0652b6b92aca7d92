"""Load generation for an endpoint, closed loop or open loop, with measurements of each request.

In a closed loop, each client sends its next request after its last answer, so a slow server gets fewer requests. In an
open loop, requests arrive at random times (a Poisson process) whatever the server's speed, as in production; only there
can a queue grow. Times are taken when bytes arrive, so they include queueing in the server but not decoding in the
client. The prompts are made up or read from a file.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import aiohttp

from rayloom.errors import InputError
from rayloom.serve.transport.asgi_call import REPLICA_HEADER

FAILURE_PAUSE_SECONDS = 0.2
"""A client's pause after a failed request, so that a refusing server does not get thousands of requests a second."""


@dataclass(frozen=True)
class MeasuredAnswer:
    """The measurements of one request."""

    started_seconds: float
    """Seconds since the load began."""
    status: int
    first_token_seconds: float | None
    """Seconds after the request was sent; None if no token came."""
    total_seconds: float
    num_tokens: int
    replica: str = ""
    error: str = ""

    @property
    def is_whole(self) -> bool:
        return self.status == 200 and not self.error


@dataclass(frozen=True)
class LoadRequest:
    """A request to send."""

    prompt: str
    max_new_tokens: int
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of the body, such as `ignore_eos`."""


@dataclass(frozen=True)
class LoadTarget:
    """The endpoint and model under load."""

    url: str
    model: str
    headers: dict[str, str] = field(default_factory=dict)


OnAnswer = Callable[[MeasuredAnswer], None]


async def closed_loop(
    target: LoadTarget, requests: Iterable[LoadRequest], num_clients: int, on_answer: OnAnswer = lambda _: None
) -> list[MeasuredAnswer]:
    """Sends each request once; every client sends the next one after its last answer."""
    waiting, answers = iter(requests), list[MeasuredAnswer]()
    async with _session(target) as session:
        began = time.perf_counter()

        async def client() -> None:
            for request in waiting:
                answer = await ask(session, target, request, began)
                answers.append(answer)
                on_answer(answer)
                if not answer.is_whole:
                    await asyncio.sleep(FAILURE_PAUSE_SECONDS)

        await asyncio.gather(*(client() for _ in range(num_clients)))
    return answers


def repeated(requests: Sequence[LoadRequest], is_over: Callable[[], bool]) -> Iterator[LoadRequest]:
    """The requests, repeated until `is_over` returns True."""
    for request in cycle(requests):
        if is_over():
            return
        yield request


async def open_loop(
    target: LoadTarget, requests: Sequence[LoadRequest], arrivals: Sequence[float], on_answer: OnAnswer = lambda _: None
) -> list[MeasuredAnswer]:
    """Sends each request once, at its arrival time, whether earlier ones are answered or not."""
    async with _session(target) as session:
        began = time.perf_counter()

        async def at(seconds: float, request: LoadRequest) -> MeasuredAnswer:
            await asyncio.sleep(began + seconds - time.perf_counter())
            answer = await ask(session, target, request, began)
            on_answer(answer)
            return answer

        return await asyncio.gather(*(at(second, each) for second, each in zip(arrivals, requests, strict=True)))


def poisson_arrivals(num_requests: int, per_second: float, seed: int) -> list[float]:
    """Arrival times in seconds of a Poisson process: the gaps are exponentially distributed."""
    generator, now, arrivals = random.Random(seed), 0.0, list[float]()
    for _ in range(num_requests):
        now += generator.expovariate(per_second)
        arrivals.append(now)
    return arrivals


@asynccontextmanager
async def _session(target: LoadTarget) -> AsyncIterator[aiohttp.ClientSession]:
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=target.headers) as session:
        yield session


async def ask(session: aiohttp.ClientSession, target: LoadTarget, request: LoadRequest, began: float) -> MeasuredAnswer:
    """Sends one streamed chat request and measures it. `began`: the time at which the load began."""
    body = {
        "model": target.model,
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
        async with session.post(f"{target.url}/v1/chat/completions", json=body) as response:
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
    return MeasuredAnswer(sent - began, status, first, time.perf_counter() - sent, num_tokens, replica, error)


def _has_text(chunk: dict[str, Any]) -> bool:
    return any((choice.get("delta") or {}).get("content") for choice in chunk.get("choices", ()))


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return body[:200].decode("utf-8", "replace")


# The prompts of the load: made-up questions that all differ, or the prompts in a file.

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


def requests_of(file: Path | None, num_requests: int, max_new_tokens: int, extra: dict[str, Any]) -> list[LoadRequest]:
    """`num_requests` requests: with the file's prompts, repeated if needed, or with made-up, different questions."""
    texts = cycle(prompts_in(file)) if file is not None else made_up_prompts()
    return [LoadRequest(text, max_new_tokens, extra) for text in islice(texts, num_requests)]


def prompts_in(file: Path) -> list[str]:
    """One prompt a line: plain text, or a JSON object with `prompt`. Raises InputError."""
    try:
        with file.open(encoding="utf-8") as read:
            lines = [line.rstrip("\n") for line in read if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The prompts cannot be read: {error}", where=str(file)) from None
    if not lines:
        raise InputError("There is no prompt in this file", where=str(file), fix="Write one a line.")
    return list(_texts(lines, file))


def _texts(lines: Sequence[str], file: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.startswith("{"):
            yield line
            continue
        try:
            yield str(json.loads(line)["prompt"])
        except (ValueError, LookupError):
            what = "This line is no JSON object with a `prompt`"
            raise InputError(what, where=f"{file}:{number}", fix='Write {"prompt": "…"}, or plain text.') from None


def made_up_prompts() -> Iterator[str]:
    """An endless sequence of different questions, so that no prompt is in the prefix cache as a whole."""
    for number in count():
        yield f"Tell me story number {number + 1} about {_SUBJECTS[number % len(_SUBJECTS)]}."
