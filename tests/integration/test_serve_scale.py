"""What takes several starts of the engine: growth under load and sleep after it, and refused updates."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import httpx
import pytest
from support.service import MODEL, Running, free_port, running, until, write_job

from rayloom.artifacts.store import Artifact, Store
from rayloom.serve.load_test.clients import (
    LoadRequest,
    LoadTarget,
    MeasuredAnswer,
    closed_loop,
    made_up_prompts,
    repeated,
)

pytestmark = pytest.mark.full
MOST_SECONDS = 240.0


@pytest.fixture(scope="module")
def service(smollm2: Artifact, shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service without doors that grows to two replicas and sleeps when nobody asks."""
    folder, port = tmp_path_factory.mktemp("grows"), free_port()
    scaling = {
        "min_replicas": 0,
        "max_replicas": 2,
        "target_ongoing_requests": 2,
        "upscale_delay_seconds": 1,
        "downscale_delay_seconds": 15,
        "routing": "prefix",
    }
    with running(write_job(folder, port, {}, model={"autoscaling": scaling}), port, shared_store) as found:
        yield found


def replicas(service: Running) -> int:
    (state,) = json.loads(service.command("serve", "status", "tested", "--json").stdout)
    return sum(version["replicas"] for version in state["models"][MODEL])


def ask(service: Running, prompt: str = "Hello") -> httpx.Response:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 1}
    return httpx.post(f"{service.url}/v1/completions", json=body, timeout=MOST_SECONDS)


def test_it_grows_under_load_and_every_request_is_answered(service: Running) -> None:
    requests = [LoadRequest(text, 24, {"ignore_eos": True}) for text in islice(made_up_prompts(), 64)]
    answers, began = list[MeasuredAnswer](), time.monotonic()

    def is_over() -> bool:
        grown = len({answer.replica for answer in answers}) == 2
        return grown or time.monotonic() - began > MOST_SECONDS

    asyncio.run(closed_loop(LoadTarget(service.url, MODEL), repeated(requests, is_over), 16, answers.append))
    assert all(answer.is_whole for answer in answers)
    assert len({answer.replica for answer in answers}) == 2


def test_requests_that_begin_alike_go_to_one_replica(service: Running) -> None:
    """By chance eight requests would do so once in 128 times."""
    beginning = "Once upon a time there was a king who had three sons. " * 6
    answers = [ask(service, f"{beginning} Part {number}.") for number in range(9)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-rayloom-replica"] for answer in answers[1:]}) == 1


def test_it_sleeps_and_wakes_for_the_next_request(service: Running) -> None:
    until(lambda: replicas(service) == 0, MOST_SECONDS)
    assert httpx.get(f"{service.url}/ready").status_code == 200
    assert ask(service).status_code == 200


def test_a_version_that_answers_wrongly_never_takes_requests(service: Running) -> None:
    wrong = ("--set", "models.0.engine.max_sequences=4", "--set", "check={prompt: Hello, contains: Atlantis}")
    refused = service.command("serve", "update", str(service.job), *wrong)
    assert refused.returncode == 1
    assert "Atlantis" in refused.stderr
    assert ask(service).status_code == 200
    (state,) = json.loads(service.command("serve", "status", "--json").stdout)
    assert [version["share"] for version in state["models"][MODEL]] == [1.0]


def test_a_version_is_promoted_asleep_and_taken_back_without_a_gap(service: Running) -> None:
    """Nobody asks a version that retires: neither who comes in that moment, nor who waited for it to wake."""
    changed = ("--set", "models.0.engine.max_sequences=4", "--share", "0.5")
    assert service.command("serve", "update", str(service.job), *changed).returncode == 0
    twice = service.command("serve", "update", str(service.job), *changed)
    assert twice.returncode == 1
    assert "trial" in twice.stderr
    until(lambda: replicas(service) == 0, MOST_SECONDS)
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(ask, service) for _ in range(8)]  # about half of them for the version that will go
        time.sleep(1)
        assert service.command("serve", "promote", "tested").returncode == 0
        assert {answer.result().status_code for answer in waiting} == {200}
        stop = threading.Event()
        steady = pool.submit(lambda: [ask(service).status_code for _ in iter(stop.is_set, True)])
        back = service.command("serve", "rollback", "tested")
        stop.set()
        assert back.returncode == 0, back.stderr
        assert set(steady.result()) == {200}
    assert ask(service).status_code == 200
