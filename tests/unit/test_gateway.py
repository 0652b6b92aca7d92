"""The gateway with backends that are plain functions: routing, refusals, and bodies passed through as they are."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from rayloom.serve.api_keys import ApiKey, KeyRing
from rayloom.serve.gateway import pages
from rayloom.serve.gateway.access_log import AccessRecord, line
from rayloom.serve.gateway.admission import Admission
from rayloom.serve.gateway.application import Gateway, RequestLimits, StaticPage
from rayloom.serve.gateway.routes import single_versions
from rayloom.serve.transport.asgi_call import REPLICA_HEADER, Listener, bound, head_frame
from rayloom.serve.transport.relay import MAX_ATTEMPTS, Backend, Call, QueueFull, ReplicaLost


@dataclass
class Recorder:
    """A backend that answers with its name and keeps what it was asked."""

    name: str
    asked: list[tuple[str, dict[bytes, bytes], bytes]] = field(default_factory=list)

    async def ask(self, call: Call) -> AsyncGenerator[bytes, None]:
        self.asked.append((call.path, dict(call.headers), call.body))
        yield head_frame(200, [(b"content-type", b"text/event-stream")])
        yield b"data: one\n\n"
        yield f"data: {self.name}\n\n".encode()


@pytest.fixture
def backends() -> dict[str, Recorder]:
    return {"first": Recorder("first"), "second": Recorder("second")}


def gateway(backends: Mapping[str, Backend], records: list[AccessRecord] | None = None, **changes: Any) -> Gateway:
    admission = changes.pop("admission", Admission(None, None))
    limits = RequestLimits(**({"max_request_bytes": 1000, "deadline_seconds": 5.0} | changes))
    return Gateway(single_versions(backends), admission, limits, (records if records is not None else []).append)


def ask(backends: Mapping[str, Backend] | Gateway, method: str, path: str, **sent: Any) -> httpx.Response:
    application = backends if isinstance(backends, Gateway) else gateway(backends)

    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app=application)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **sent)

    return asyncio.run(once())


def test_the_named_model_gets_the_very_bytes_and_its_stream_comes_back(backends: dict[str, Recorder]) -> None:
    body = b'{"model":  "second", "stream": true}'
    response = ask(backends, "POST", "/v1/chat/completions", content=body, headers={"x-request-id": "r7"})
    assert response.text == "data: one\n\ndata: second\n\n"
    assert response.headers["content-type"] == "text/event-stream"
    assert backends["first"].asked == []
    ((path, headers, received),) = backends["second"].asked
    assert (path, received) == ("/v1/chat/completions", body)
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-request-id"].startswith(b"r7-")


def test_models_are_listed_and_found_one_by_one(backends: dict[str, Recorder]) -> None:
    assert [m["id"] for m in ask(backends, "GET", "/v1/models").json()["data"]] == ["first", "second"]
    assert ask(backends, "GET", "/v1/models/second").json()["id"] == "second"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/chat/completions", b"{bad", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b"\xff\xfe", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b"[1]", 400, "missing_model"),
        ("POST", "/v1/chat/completions", b'{"model": 3}', 400, "missing_model"),
        ("POST", "/v1/chat/completions", b'{"model": "../x"}', 404, "model_not_found"),
        ("GET", "/v1/models/none", b"", 404, "model_not_found"),
        ("GET", "/v1/chat/completions", b"", 405, "method_not_allowed"),
        ("POST", "/v1/models", b"", 405, "method_not_allowed"),
        ("POST", "/v1/files", b"", 404, "not_found"),
    ],
    ids=lambda value: value.decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_refusals_have_openais_form(
    backends: dict[str, Recorder], method: str, path: str, body: bytes, status: int, code: str
) -> None:
    response = ask(backends, method, path, content=body)
    assert response.status_code == status
    error = json.loads(response.text)["error"]
    assert error["code"] == code
    assert error["type"] == "invalid_request_error"
    assert error["request_id"]
    assert error["message"]
    assert all(not backend.asked for backend in backends.values())


CHAT = {"method": "POST", "path": "/v1/chat/completions", "json": {"model": "m", "messages": []}}


@dataclass
class Scripted:
    """A backend that does in its n-th call what the script's n-th entry says."""

    script: list[Callable[[], AsyncGenerator[bytes, None]]]
    num_calls: int = 0

    def ask(self, call: Call) -> AsyncGenerator[bytes, None]:
        self.num_calls += 1
        return self.script[min(self.num_calls, len(self.script)) - 1]()


HEAD = head_frame(200, [(REPLICA_HEADER.encode(), b"r1")])


async def whole() -> AsyncGenerator[bytes, None]:
    yield HEAD
    yield b"data: whole\n\n"


async def lost_at_once() -> AsyncGenerator[bytes, None]:
    raise ReplicaLost
    yield b""


async def lost_after_the_head() -> AsyncGenerator[bytes, None]:
    yield HEAD
    raise ReplicaLost


async def lost_in_the_middle() -> AsyncGenerator[bytes, None]:
    yield HEAD
    yield b"data: begun\n\n"
    raise ReplicaLost


async def too_many() -> AsyncGenerator[bytes, None]:
    raise QueueFull
    yield b""


async def slow() -> AsyncGenerator[bytes, None]:
    await asyncio.sleep(10)
    yield HEAD


async def slow_after_the_first_piece() -> AsyncGenerator[bytes, None]:
    yield HEAD
    yield b"data: begun\n\n"
    await asyncio.sleep(10)


async def refused() -> AsyncGenerator[bytes, None]:
    yield head_frame(400, [])
    yield b'{"error": {"message": "too long", "type": "BadRequestError", "param": "prompt", "code": 400}}'


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayloom.serve.transport.relay.FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("rayloom.serve.transport.relay.QUEUE_PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("without_pauses")
@pytest.mark.parametrize("lost", [lost_at_once, lost_after_the_head], ids=["at once", "after the head"])
def test_a_replica_that_dies_before_the_first_piece_costs_the_client_nothing(
    lost: Callable[[], AsyncGenerator[bytes, None]],
) -> None:
    backend, records = Scripted([lost, lost, whole]), list[AccessRecord]()
    response = ask(gateway({"m": backend}, records), **CHAT)
    assert (response.status_code, response.text) == (200, "data: whole\n\n")
    assert backend.num_calls == records[0].num_attempts == 3
    assert records[0].replica == "r1"


@pytest.mark.usefixtures("without_pauses")
def test_a_request_to_a_version_that_left_is_answered_by_the_next() -> None:
    new = Scripted([whole])
    serving: Gateway

    async def left() -> AsyncGenerator[bytes, None]:
        serving.routes = single_versions({"m": new})
        raise ReplicaLost
        yield b""

    old = Scripted([left])
    serving = gateway({"m": old})
    assert ask(serving, **CHAT).text == "data: whole\n\n"
    assert old.num_calls == new.num_calls == 1


@pytest.mark.usefixtures("without_pauses")
def test_a_request_that_kills_every_replica_does_not_go_round_for_ever() -> None:
    backend = Scripted([lost_at_once])
    response = ask({"m": backend}, **CHAT)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "replica_lost"
    assert backend.num_calls == MAX_ATTEMPTS


def test_an_answer_that_is_cut_off_ends_with_an_error_and_is_not_asked_again() -> None:
    backend, records = Scripted([lost_in_the_middle, whole]), list[AccessRecord]()
    response = ask(gateway({"m": backend}, records), **CHAT)
    begun, last = response.text.strip().split("\n\n")
    assert (response.status_code, begun) == (200, "data: begun")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "cut_off"
    assert backend.num_calls == 1
    assert records[0].error == "cut_off"


def test_a_full_queue_is_a_429_with_a_time_to_come_back() -> None:
    response = ask({"m": Scripted([too_many])}, **CHAT)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.usefixtures("without_pauses")
def test_a_full_queue_does_not_turn_away_a_request_whose_replica_was_lost() -> None:
    response = ask({"m": Scripted([lost_at_once, too_many, too_many, whole])}, **CHAT)
    assert (response.status_code, response.text) == (200, "data: whole\n\n")


def test_a_deadline_ends_requests_that_have_not_begun_and_those_that_have() -> None:
    late = ask(gateway({"m": Scripted([slow])}, deadline_seconds=0.05), **CHAT)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    cut = ask(gateway({"m": Scripted([slow_after_the_first_piece])}, deadline_seconds=0.05), **CHAT)
    assert cut.status_code == 200
    assert "deadline_exceeded" in cut.text


@pytest.mark.parametrize(("field", "value"), [("messages", 3), ("structured_outputs", "x"), ("tools", {})])
def test_what_the_engine_would_stumble_over_is_a_400(field: str, value: Any) -> None:
    backend = Scripted([whole])
    response = ask({"m": backend}, "POST", "/v1/chat/completions", json={"model": "m", field: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)
    assert backend.num_calls == 0


@pytest.mark.parametrize(
    ("asked", "is_let_in"),
    [
        ({"n": 3}, True),
        ({"n": 4}, False),
        ({"prompt": ["a"] * 3}, True),
        ({"prompt": [[1], [2]], "n": 2}, False),
        ({"prompt": [1, 2, 3, 4, 5]}, True),
        ({"n": "many"}, True),
    ],
)
def test_one_request_wants_so_many_answers_at_most(asked: dict[str, Any], is_let_in: bool) -> None:
    backend = Scripted([whole])
    response = ask(gateway({"m": backend}, max_answers=3), "POST", "/v1/completions", json={"model": "m"} | asked)
    assert response.status_code == (200 if is_let_in else 400)
    assert backend.num_calls == is_let_in


async def broken() -> AsyncGenerator[bytes, None]:
    yield HEAD
    raise ValueError("a defect")


def test_a_defect_is_a_500_in_openais_form_and_its_cause_stays_in_the_log(logged: list[str]) -> None:
    records: list[AccessRecord] = []
    response = ask(gateway({"m": Scripted([broken])}, records), **CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "a defect" not in response.text
    assert any("a defect" in text for text in logged)
    assert records[0].error == "internal_error"


def test_the_engines_errors_get_openais_form() -> None:
    error = ask({"m": Scripted([refused])}, **CHAT).json()["error"]
    assert (error["message"], error["type"], error["param"]) == ("too long", "invalid_request_error", "prompt")
    assert error["request_id"]


def test_a_request_over_the_size_limit_is_refused_unread() -> None:
    backend = Scripted([whole])
    response = ask({"m": backend}, "POST", "/v1/chat/completions", content=b"x" * 1001)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert backend.num_calls == 0


def test_keys_are_asked_for_everywhere_but_at_the_watchers_paths() -> None:
    key = ApiKey("0" * 8, "me", "digest", "2026-01-01")
    locked = gateway({"m": Scripted([whole])}, admission=Admission(lambda: KeyRing([key]), None))
    assert ask(locked, "GET", "/v1/models").status_code == 401
    response = ask(locked, **CHAT, headers={"authorization": "Bearer rl-00000000-" + "a" * 43})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert ask(locked, "GET", "/health").json() == {"status": "ok"}
    assert ask(locked, "GET", "/ready").json() == {"models": {"m": True}}


def test_the_chat_page_is_there_when_asked_for_and_loads_nothing_from_elsewhere() -> None:
    assert ask({}, "GET", "/").status_code == 404
    page = StaticPage(pages.CHAT_HEADERS, pages.chat_page())
    locked = Gateway(
        single_versions({}), Admission(lambda: KeyRing([]), None), RequestLimits(1000, 5.0), lambda _: None, page=page
    )
    response = ask(locked, "GET", "/")
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href)=|https?://", response.text)
    assert ask(locked, "POST", "/").status_code == 405


def test_a_client_that_hangs_up_ends_what_is_computed_for_it() -> None:
    records: list[AccessRecord] = []
    begun, ended = asyncio.Event(), asyncio.Event()

    @dataclass
    class Endless:
        async def ask(self, _: Call) -> AsyncGenerator[bytes, None]:
            try:
                yield head_frame(200, [])
                while True:
                    yield b"data: more\n\n"
                    begun.set()
                    await asyncio.sleep(0.001)
            finally:
                ended.set()

    bodies = [{"type": "http.request", "body": b'{"model": "m"}', "more_body": False}]

    async def receive() -> dict[str, Any]:
        if bodies:
            return bodies.pop()
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(_: object) -> None:
        pass

    async def disconnect() -> None:
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
        await asyncio.wait_for(gateway({"m": Endless()}, records)(scope, receive, send), 10)
        await asyncio.wait_for(ended.wait(), 10)

    asyncio.run(disconnect())
    assert [record.error for record in records] == ["client_left"]


def test_the_access_log_has_no_prompts_unless_asked() -> None:
    records: list[AccessRecord] = []
    ask(gateway({"m": Scripted([whole])}, records), **CHAT)
    ask(gateway({"m": Scripted([whole])}, records, log_prompts=True), **CHAT)
    without, with_prompt = (json.loads(line(record)) for record in records)
    assert "prompt" not in without
    assert '"messages"' in with_prompt["prompt"]
    assert without["model"] == "m"
    assert without["status"] == 200
    assert without["answer_bytes"] == len("data: whole\n\n")
    assert 0 <= without["first_piece_seconds"] <= without["seconds"]


def test_refusals_are_in_the_access_log_with_their_code() -> None:
    records: list[AccessRecord] = []
    ask(gateway({}, records), "POST", "/v1/chat/completions", content=b"{")
    assert (records[0].status, records[0].error) == (400, "invalid_json")


# -- what only odd clients send ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs", "/openapi.json", "/v1/models"])
def test_a_head_request_gets_the_head_of_the_answer(path: str, backends: dict[str, Recorder]) -> None:
    head, whole = ask(backends, "HEAD", path), ask(backends, "GET", path)
    assert (head.status_code, head.content) == (200, b"")
    assert dict(head.headers) == dict(whole.headers)
    assert ask(backends, "HEAD", "/v1/completions").status_code == 405


@pytest.mark.parametrize(
    "field", [{"stop": "\ud800"}, {"stop": ["a", "\udfff"]}, {"prompt": "a\ud83d"}, {"\ud800": 1}, {"model": "\ud800"}]
)
def test_half_of_a_surrogate_pair_is_refused(field: dict[str, Any], backends: dict[str, Recorder]) -> None:
    """It is valid JSON, but no text: the engine would fail on it."""
    body = json.dumps({"model": "first"} | field)
    answer = ask(backends, "POST", "/v1/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_text")
    assert backends["first"].asked == []
    whole = json.dumps({"model": "first", "prompt": "\U0001f600 and \\ud800 as text"})
    assert ask(backends, "POST", "/v1/completions", content=whole).status_code == 200


DEEP = b"[" * 900 + b"]" * 900


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "first", "stop": "\\ud800"}'.encode("utf-16"),
        b'{"model": "first", "stop": "\xed\xa0\x80"}',
        b'{"model": "first", "temperature": NaN}',
        b'{"model": "first", "logit_bias": {"3": -Infinity}}',
        b'{"model": "first", "repetition_penalty": 1e999}',
        b'{"model": "first", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"model": "first", "tools": ' + DEEP + b"}",
        b'{"model": "first", "stop": "\\ud800", "tools": ' + DEEP + b"}",
        b'{"model": "first", "tools": ' + b"[" * 100_000,
    ],
    ids=["utf-16", "surrogate-bytes", "nan", "infinity", "too-large", "digits", "deep", "deep-and-half", "very-deep"],
)
def test_what_python_takes_for_json_and_is_none_is_refused(body: bytes, backends: dict[str, Recorder]) -> None:
    answer = ask(gateway(backends, max_request_bytes=1_000_000), "POST", "/v1/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert backends["first"].asked == []


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 415), ("br", 415), ("identity", 200)])
def test_a_compressed_body_is_refused_by_name(encoding: str, status: int, backends: dict[str, Recorder]) -> None:
    headers = {"content-encoding": encoding}
    answer = ask(backends, "POST", "/v1/completions", content=b'{"model": "first"}', headers=headers)
    assert answer.status_code == status
    if status == 415:
        assert encoding in answer.json()["error"]["message"]
        assert answer.headers["accept-encoding"] == "identity"


def test_a_path_that_the_engine_does_not_have_is_refused_in_words() -> None:
    async def not_found() -> AsyncGenerator[bytes, None]:
        yield head_frame(404, [])
        yield b'{"detail":"Not Found"}'

    answer = ask({"m": Scripted([not_found])}, "POST", "/v1/embeddings", content=b'{"model": "m"}')
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "m does not answer at /v1/embeddings."


def test_a_client_of_http_1_0_gets_a_stream_as_one_whole_answer(backends: dict[str, Recorder]) -> None:
    """It knows no chunks: their lengths would stand in the text."""

    async def answer() -> bytes:
        listening = bound("127.0.0.1", 0)
        port = listening.getsockname()[1]
        listener = await Listener.opened(gateway(backends), listening)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"model": "first", "stream": true}'
        writer.write(b"POST /v1/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        received = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await listener.close()
        return received

    head, _, text = asyncio.run(answer()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert text == b"data: one\n\ndata: first\n\n"
