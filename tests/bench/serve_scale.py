"""A service under a load that grows, and one whose replica is killed: what `serve.py` reports of both."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import psutil
from endpoints import Endpoint

from rayloom.serve.load_test.clients import LoadRequest, LoadTarget, MeasuredAnswer, ask, closed_loop, repeated
from rayloom.serve.load_test.figures import summary

STEPS = (1, 4, 16, 64)
MOST_SECONDS = 120.0


def measured_ramp(endpoint: Endpoint) -> dict[str, Any]:
    """From 1 to 64 clients until a second replica took requests, then until it is gone again."""
    answers = asyncio.run(_ramp(endpoint))
    found = summary(answers)
    assert endpoint.service is not None
    began = time.monotonic()
    while endpoint.service.replicas()[endpoint.model] > 1 and time.monotonic() - began < MOST_SECONDS:
        time.sleep(0.5)
    return {
        "requests": found.num_requests,
        "statuses": sorted({answer.status for answer in answers}),
        "failed": found.num_failed,
        "requests_by_replica": found.requests_by_replica,
        "replicas_after": endpoint.service.replicas()[endpoint.model],
        "seconds_until_scaled_down": round(time.monotonic() - began, 1),
    }


async def _ramp(endpoint: Endpoint) -> list[MeasuredAnswer]:
    requests = [LoadRequest(f"Story {number}, please.", 24, {"ignore_eos": True}) for number in range(512)]
    answers: list[MeasuredAnswer] = []
    began = time.monotonic()
    for num_clients in STEPS:
        step: list[MeasuredAnswer] = []

        def is_over(step: list[MeasuredAnswer] = step, num_clients: int = num_clients) -> bool:
            has_grown = num_clients != STEPS[-1] or len({answer.replica for answer in step}) > 1
            return time.monotonic() - began > MOST_SECONDS or (len(step) > num_clients and has_grown)

        await closed_loop(_target(endpoint), repeated(requests, is_over), num_clients, step.append)
        answers += step
    return answers


def _target(endpoint: Endpoint) -> LoadTarget:
    return LoadTarget(endpoint.url, endpoint.model, endpoint.headers)


def measured_kill(endpoint: Endpoint) -> dict[str, Any]:
    """A replica killed by SIGKILL while 32 clients stream: who is answered, who is cut off, and how long it takes."""
    answers, seconds_whole_again = asyncio.run(_kill(endpoint))
    cut = [answer for answer in answers if not answer.is_whole]
    return {
        "requests": len(answers),
        "whole": len(answers) - len(cut),
        "cut_off_after_their_first_token": sum(a.first_token_seconds is not None for a in cut),
        "lost_before_their_first_token": sum(a.first_token_seconds is None for a in cut),
        "errors": sorted({answer.error for answer in cut}),
        "longest_wait_seconds": round(max(answer.total_seconds for answer in answers), 1),
        "seconds_until_whole_again": round(seconds_whole_again, 1),
    }


async def _kill(endpoint: Endpoint) -> tuple[list[MeasuredAnswer], float]:
    requests = [LoadRequest(f"Story {number}, please.", 64, {"ignore_eos": True}) for number in range(64)]
    answers: list[MeasuredAnswer] = []
    asked = repeated(requests, lambda: len(answers) > 16)
    running = asyncio.create_task(closed_loop(_target(endpoint), asked, 48, answers.append))
    await asyncio.sleep(3)
    _replica_processes()[0].kill()
    killed = time.monotonic()
    async with aiohttp.ClientSession(headers=endpoint.headers) as session:
        after = await ask(session, _target(endpoint), LoadRequest("Hello again.", 2), time.perf_counter())
    seconds = time.monotonic() - killed
    await running
    return [*answers, after], seconds


def _replica_processes() -> list[psutil.Process]:
    """Their titles name the engine's deployment, and behind it what they do at the moment."""
    titles = {process: " ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)}
    return [
        process for process, title in titles.items() if title.startswith("ray::ServeReplica:") and ":engine" in title
    ]
