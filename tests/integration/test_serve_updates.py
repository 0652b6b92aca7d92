"""A running service changed, hurt and stopped, in this order: nobody is turned away, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from support.service import CAPITAL, MODEL, Served, until

from rayloom.serve import control_records

CONTROLLER = "ray::ServeController"
ENDLESS: dict[str, Any] = {"model": MODEL, "messages": CAPITAL, "max_tokens": 450, "ignore_eos": True, "stream": True}


@dataclass
class Steady:
    """What a client that never stops asking has got."""

    answers: list[httpx.Response] = field(default_factory=list)

    def applications(self) -> set[str]:
        return {answer.headers["x-rayloom-replica"].partition("#")[0] for answer in self.answers}


@contextmanager
def asked_all_the_time(served: Served) -> Iterator[Steady]:
    steady, is_over = Steady(), threading.Event()
    body = json.dumps({"model": MODEL, "prompt": "Hello", "max_tokens": 2}).encode()

    def ask() -> None:
        with httpx.Client(headers=served.headers, timeout=120) as client:
            while not is_over.is_set():
                steady.answers.append(client.post(f"{served.running.url}/v1/completions", content=body))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield steady
    finally:
        is_over.set()
        thread.join()
    assert {answer.status_code for answer in steady.answers} == {200}


def test_an_update_takes_its_share_of_the_requests_and_is_taken_back(served: Served) -> None:
    changed = ("--set", "models.0.engine.max_sequences=4", "--share", "0.5")
    with asked_all_the_time(served) as steady:
        updated = served.running.command("serve", "update", str(served.running.job), *changed)
        assert updated.returncode == 0, updated.stderr
        assert "50%" in updated.stderr
        begin = len(steady.answers)
        until(lambda: len({a.headers["x-rayloom-replica"] for a in steady.answers[begin:]}) == 2)
        status = json.loads(served.running.command("serve", "status", "--json").stdout)
        assert [version["share"] for version in status[0]["models"][MODEL]] == [0.5, 0.5]
        assert served.running.command("serve", "rollback", "tested").returncode == 0
        until(lambda: len({a.headers["x-rayloom-replica"] for a in steady.answers[-12:]}) == 1)
    assert served.running.command("serve", "rollback", "tested").returncode == 1


def test_a_replica_killed_under_load_costs_only_what_had_begun(served: Served) -> None:
    """Eight streams fill the engine, twelve more requests wait in it: it is killed, and another one comes by itself."""
    cut, answered = asyncio.run(_hurt(served))
    assert len(cut) == 8
    for text in cut:
        last = text.strip().splitlines()[-1].removeprefix("data: ")
        assert json.loads(last)["error"]["code"] == "cut_off"
    assert [answer.status_code for answer in answered] == [200] * 12
    assert all(answer.json()["usage"]["completion_tokens"] == 4 for answer in answered)


async def _hurt(served: Served) -> tuple[list[str], list[httpx.Response]]:
    url = f"{served.running.url}/v1/chat/completions"
    begun = asyncio.Semaphore(0)

    async def stream(client: httpx.AsyncClient) -> str:
        text = ""
        async with client.stream("POST", url, json=ENDLESS) as response:
            async for piece in response.aiter_text():
                if not text:
                    begun.release()
                text += piece
        return text

    async with httpx.AsyncClient(headers=served.headers, timeout=240) as client:
        streams = [asyncio.create_task(stream(client)) for _ in range(8)]
        for _ in streams:
            await begun.acquire()
        short = ENDLESS | {"max_tokens": 4, "stream": False}
        waiting = [asyncio.create_task(client.post(url, json=short)) for _ in range(12)]
        await asyncio.sleep(0.5)
        (replica,) = served.running.replicas("tested.smollm.1")
        replica.kill()
        return await asyncio.gather(*streams), await asyncio.gather(*waiting)


def test_every_replica_stays_when_ray_serves_controller_comes_back(served: Served) -> None:
    """It asks each replica how it is, and ends those that cannot say."""
    replicas = {process.pid for process in served.running.processes("ray::ServeReplica:")}
    (controller,) = served.running.processes(CONTROLLER)
    with asked_all_the_time(served):
        controller.kill()
        until(lambda: controller.pid not in {process.pid for process in served.running.processes(CONTROLLER)})
        until(lambda: bool(served.running.processes(CONTROLLER)))
        back = time.time()
        until(lambda: running_replicas(served, since=back) == 1)
    assert {process.pid for process in served.running.processes("ray::ServeReplica:")} == replicas


def running_replicas(served: Served, since: float) -> int | None:
    """As the service said after that moment, in seconds since 1970; None where it has said nothing."""
    state = control_records.state_of(served.store, "tested")
    if state is None or state.beat < since:
        return None
    return sum(version["replicas"] for version in state.models[MODEL])


def test_the_access_log_has_every_request_and_no_prompt(served: Served) -> None:
    assert served.post(b"{").status_code == 400
    until(lambda: served.log()[-1].get("error") == "invalid_json")
    log = served.log()
    assert log[-1]["status"] == 400
    assert all("request_id" in record for record in log)
    assert not any("prompt" in record for record in log)


def test_stopped_by_a_signal_it_leaves_no_port_and_no_process(served: Served) -> None:
    replicas = served.running.replicas("tested")
    served.running.process.send_signal(signal.SIGINT)
    assert served.running.process.wait(timeout=120) in (0, 130)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", served.running.port)) != 0
    assert not any(replica.is_running() for replica in replicas)
