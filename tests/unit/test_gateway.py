"""The gateway with backends that are plain functions: routing, refusals, and bodies passed through as they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from rayloom.serve.asgi_call import Headers, head_frame
from rayloom.serve.gateway import Gateway


@dataclass
class Recorder:
    """A backend that answers with its name and keeps what it was asked."""

    name: str
    asked: list[tuple[str, dict[bytes, bytes], bytes]] = field(default_factory=list)

    async def ask(self, path: str, headers: Headers, body: bytes) -> AsyncIterator[bytes]:
        self.asked.append((path, dict(headers), body))
        yield head_frame(200, [(b"content-type", b"text/event-stream")])
        yield b"data: one\n\n"
        yield f"data: {self.name}\n\n".encode()


@pytest.fixture
def backends() -> dict[str, Recorder]:
    return {"first": Recorder("first"), "second": Recorder("second")}


def ask(backends: dict[str, Recorder], method: str, path: str, **sent: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app=Gateway(backends))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **sent)

    return asyncio.run(once())


def test_the_named_model_gets_the_very_bytes_and_its_stream_comes_back(backends: dict[str, Recorder]) -> None:
    body = b'{"model":  "second", "stream": true}'
    response = ask(backends, "POST", "/v1/chat/completions", content=body, headers={"x-request-id": "r7"})
    assert response.text == "data: one\n\ndata: second\n\n"
    assert response.headers["content-type"] == "text/event-stream"
    assert backends["first"].asked == []
    expected = {b"content-type": b"application/json", b"x-request-id": b"r7"}
    assert backends["second"].asked == [("/v1/chat/completions", expected, body)]


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
    assert error["message"]
    assert all(not backend.asked for backend in backends.values())
