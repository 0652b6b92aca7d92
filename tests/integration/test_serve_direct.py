"""The direct profile on the real model, with guessed tokens: the same answers and doors, from one process."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from support.service import CAPITAL, CAPITAL_ANSWER, MODEL, Served, free_port, served_by, write_job

from rayloom.artifacts.store import Artifact, Store

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def direct(smollm2: Artifact, shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that has one process for everything."""
    folder, port = tmp_path_factory.mktemp("direct"), free_port()
    job = write_job(
        folder,
        port,
        {"speculation": {"type": "ngram"}, "tool_parser": "hermes"},
        model={"autoscaling": {"target_ongoing_requests": 1, "max_ongoing_requests": 4, "max_queued_requests": 4}},
        doors={"keys_required": True},
        profile="direct",
    )
    with served_by(job, port, shared_store) as found:
        yield found


def test_it_answers_and_streams(direct: Served) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": CAPITAL, "temperature": 0, "max_tokens": 16}
    whole = direct.client.chat.completions.create(**asked).choices[0].message.content
    assert str(whole).startswith(CAPITAL_ANSWER)
    with direct.client.chat.completions.create(**asked, stream=True) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == whole


def test_its_doors_are_closed_without_a_key(direct: Served) -> None:
    assert httpx.get(f"{direct.running.url}/v1/models").status_code == 401
    assert direct.post(b"{").json()["error"]["code"] == "invalid_json"


def test_guessed_tokens_keep_to_a_json_schema(direct: Served) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
    answer = direct.client.chat.completions.create(
        model=MODEL,
        messages=CAPITAL,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": schema}},  # type: ignore[arg-type]
    )
    assert "city" in json.loads(str(answer.choices[0].message.content))


def test_more_than_it_may_hold_is_a_429(direct: Served) -> None:
    body = b'{"model": "smollm", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 48, "ignore_eos": true}'
    with ThreadPoolExecutor(24) as pool:
        statuses = [answer.status_code for answer in pool.map(direct.post, [body] * 24)]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 8


def test_it_does_not_change_while_it_runs_and_stops_whole(direct: Served) -> None:
    refused = direct.running.command("serve", "update", str(direct.running.job))
    assert refused.returncode == 1
    assert "profile: full" in refused.stderr
    direct.running.process.terminate()
    assert direct.running.process.wait(timeout=120) in (0, 130)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", direct.running.port)) != 0
