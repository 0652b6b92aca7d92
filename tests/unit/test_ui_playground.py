"""The playground passes a service's answer on as it comes, asks no other address, and says what is wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from support.ui_store import HOSTILE, PORT, workbench

from rayloom.observe.ports import free_port
from rayloom.serve import control_records
from rayloom.ui.application import application
from rayloom.ui.workbench import Workbench

HERE = f"http://127.0.0.1:{PORT}"
ORIGIN = {"origin": HERE}
SERVICE_KEY = "rl-secret"
PIECES = ("The ", "sky ", "is ", HOSTILE)


async def models(_: Request) -> Response:
    return JSONResponse({"data": [{"id": "loomie"}, {"id": HOSTILE}, {"id": "tagger", "path": "/v1/classify"}]})


async def complete(request: Request) -> Response:
    """An OpenAI-compatible endpoint that needs a key, and streams what it was asked."""
    if request.headers.get("authorization") != f"Bearer {SERVICE_KEY}":
        return JSONResponse({"error": {"message": "the API key is missing"}}, 401)
    asked = await request.json()

    async def events() -> AsyncIterator[str]:
        for piece in (*PIECES, json.dumps(asked, sort_keys=True)):
            yield f"data: {json.dumps({'choices': [{'delta': {'content': piece}}]})}\n\n"
        yield 'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}\n\n'
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    routes = [Route("/v1/models", models), Route("/v1/chat/completions", complete, methods=["POST"])]
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def bench(tmp_path: Path, endpoint: str) -> Workbench:
    bench = workbench(tmp_path)
    control_records.write_state(bench.store, control_records.ServiceState("chat", endpoint, time.time(), {}))
    return bench


@pytest.fixture
def client(bench: Workbench) -> TestClient:
    return TestClient(application(bench), base_url=HERE, headers=ORIGIN)


ASKED = {"service": "chat", "model": "loomie", "messages": '[{"role": "user", "content": "Hi"}]', "key": SERVICE_KEY}


def test_models_that_chat_can_be_chosen(client: TestClient) -> None:
    page = client.get("/playground").text
    assert 'data-model="loomie"' in page
    assert "tagger" not in page
    assert "<script>alert" not in page


def test_an_answer_comes_as_the_service_sends_it_with_the_parameters(client: TestClient) -> None:
    answer = client.post("/playground/ask", data={**ASKED, "temperature": "0.5", "max_tokens": "9", "seed": " "})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    texts = [event["choices"][0]["delta"]["content"] for event in events if event["choices"]]
    assert tuple(texts[:-1]) == PIECES
    sent = json.loads(texts[-1])
    assert (sent["temperature"], sent["max_tokens"], sent["model"]) == (0.5, 9, "loomie")
    assert "seed" not in sent
    assert "key" not in sent
    assert events[-1]["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"key": "wrong"}, 502, "the API key is missing"),
        ({"service": "other"}, 422, "No service"),
        ({"service": "http://127.0.0.1:22"}, 422, "No service"),
        ({"temperature": "warm"}, 422, "temperature must be a number"),
        ({"messages": "hi"}, 422, "no JSON"),
    ],
)
def test_what_is_wrong_is_said(client: TestClient, changes: dict[str, str], status: int, said: str) -> None:
    answer = client.post("/playground/ask", data=ASKED | changes)
    assert answer.status_code == status
    assert said in answer.json()["problem"]


def test_a_service_that_is_gone_is_said(client: TestClient, bench: Workbench) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    control_records.write_state(bench.store, control_records.ServiceState("gone", url, time.time(), {}))
    assert "gone does not answer" in client.get("/playground").text
    assert "does not answer" in client.post("/playground/ask", data=ASKED | {"service": "gone"}).json()["problem"]


def test_without_a_service_the_page_says_how_to_start_one(tmp_path: Path) -> None:
    assert "rayloom run" in TestClient(application(workbench(tmp_path)), base_url=HERE).get("/playground").text


def test_another_site_cannot_ask(client: TestClient) -> None:
    assert client.post("/playground/ask", data=ASKED, headers={"origin": "http://evil.example"}).status_code == 403
