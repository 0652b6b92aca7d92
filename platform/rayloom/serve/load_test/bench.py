"""Load for measuring an endpoint: a closed loop of clients, or requests that arrive as if from many people.

A closed loop sends the next request when the last one is answered, so a slow server is asked less. In an open loop
requests come at random moments (Poisson arrivals) however slow the server is, as in life; only there does a queue grow.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import aiohttp

from rayloom.errors import InputError
from rayloom.serve.load_test.clients import Answer, Request, ask, prompts

OnAnswer = Callable[[Answer], None]


@dataclass(frozen=True)
class Target:
    """What is loaded."""

    url: str
    model: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """What a good answer keeps to; None: whatever it is."""

    first_token_seconds: float | None = None
    per_token_seconds: float | None = None
    latency_seconds: float | None = None

    def are_kept_by(self, answer: Answer) -> bool:
        if not answer.is_whole:
            return False
        first = answer.first_token_seconds
        rest = answer.total_seconds - (first or 0.0)
        each = rest / (answer.num_tokens - 1) if answer.num_tokens > 1 else 0.0
        measured = ((first or 0.0, self.first_token_seconds), (each, self.per_token_seconds))
        whole = (answer.total_seconds, self.latency_seconds)
        return all(limit is None or seconds <= limit for seconds, limit in (*measured, whole))


async def closed_loop(
    target: Target, requests: Sequence[Request], num_clients: int, on_answer: OnAnswer = lambda _: None
) -> list[Answer]:
    """Each request once: every client sends the next one when it has its answer."""
    waiting, answers = iter(requests), list[Answer]()
    async with _session(target) as session:
        began = time.perf_counter()

        async def client() -> None:
            for request in waiting:
                answer = await ask(session, target.url, target.model, request, began)
                answers.append(answer)
                on_answer(answer)

        await asyncio.gather(*(client() for _ in range(num_clients)))
    return answers


async def open_loop(
    target: Target, requests: Sequence[Request], arrivals: Sequence[float], on_answer: OnAnswer = lambda _: None
) -> list[Answer]:
    """Each request once, at its own second, whether the ones before are answered or not."""
    async with _session(target) as session:
        began = time.perf_counter()

        async def at(seconds: float, request: Request) -> Answer:
            await asyncio.sleep(began + seconds - time.perf_counter())
            answer = await ask(session, target.url, target.model, request, began)
            on_answer(answer)
            return answer

        return await asyncio.gather(*(at(second, each) for second, each in zip(arrivals, requests, strict=True)))


@asynccontextmanager
async def _session(target: Target) -> AsyncIterator[aiohttp.ClientSession]:
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=target.headers) as session:
        yield session


def poisson_arrivals(num_requests: int, per_second: float, seed: int) -> list[float]:
    """Seconds at which requests come: gaps are exponential, so that each moment is as likely as any other."""
    generator, now, found = random.Random(seed), 0.0, []
    for _ in range(num_requests):
        now += generator.expovariate(per_second)
        found.append(now)
    return found


def requests_of(file: Path | None, num_requests: int, max_new_tokens: int, extra: dict[str, Any]) -> list[Request]:
    """As many requests as asked for: the file's prompts over and over, or made-up questions that all differ."""
    texts = cycle(prompts_in(file)) if file is not None else prompts()
    return [Request(text, max_new_tokens, extra) for text in islice(texts, num_requests)]


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


def goodput(answers: Sequence[Answer], limits: Limits, seconds: float) -> dict[str, float]:
    """Answers that keep to the limits: how many a second, and which part of all."""
    good = sum(limits.are_kept_by(answer) for answer in answers)
    return {
        "requests_per_second": round(good / seconds, 3) if seconds else 0.0,
        "share": round(good / len(answers), 4) if answers else 0.0,
    }
