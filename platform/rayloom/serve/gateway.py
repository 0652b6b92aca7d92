"""The endpoint as an ASGI application: finds the model that a request names and passes request and answer through.

It knows no Ray and no engine: a `Backend` answers one request with byte frames (see `asgi_call`), so a test gives it a
plain function. Bodies are not rebuilt: what the client sent is what the engine reads, and what the engine writes is
what the client gets.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from rayloom.serve.asgi_call import Headers, Message, Receive, Scope, Send, read_head

MODEL_PATHS = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/tokenize", "/detokenize"}
)


class Backend(Protocol):
    """Answers requests for one model."""

    def ask(self, path: str, headers: Headers, body: bytes) -> AsyncIterator[bytes]: ...


class Refusal(Exception):  # noqa: N818 (an answer, not a defect)
    """A request that is answered with an error in OpenAI's form."""

    def __init__(self, status: int, message: str, kind: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Gateway:
    """Routes to the models' backends; `models` may be replaced at any time."""

    def __init__(self, models: Mapping[str, Backend]) -> None:
        self.models = dict(models)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            try:
                await self._answer(scope, receive, send)
            except Refusal as refusal:
                await _send_json(send, refusal.status, refusal.body)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path in MODEL_PATHS:
            _need(method, "POST")
            await self._pass_through(scope, await _body(receive), send)
            return
        answer = self._own(path)
        if answer is None:
            raise Refusal(404, f"There is no {path} here.", "invalid_request_error", "not_found")
        _need(method, "GET")
        await _send_json(send, 200, answer)

    def _own(self, path: str) -> dict[str, Any] | None:
        if path == "/v1/models":
            return {"object": "list", "data": [_card(name) for name in self.models]}
        if path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models/")
            self._backend(name)
            return _card(name)
        return {"status": "ok"} if path == "/health" else None

    async def _pass_through(self, scope: Scope, body: bytes, send: Send) -> None:
        backend = self._backend(_named_model(body))
        frames = backend.ask(scope["path"], _forwarded(scope["headers"]), body)
        status, headers = read_head(await anext(frames))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        async for frame in frames:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _backend(self, name: str) -> Backend:
        if name not in self.models:
            known = ", ".join(self.models)
            text = f"The model `{name}` does not exist here; there are: {known}."
            raise Refusal(404, text, "invalid_request_error", "model_not_found", "model")
        return self.models[name]


def _named_model(body: bytes) -> str:
    try:
        request = json.loads(body)
    except (UnicodeDecodeError, ValueError) as error:
        raise Refusal(400, f"The body is not JSON: {error}.", "invalid_request_error", "invalid_json") from None
    name = request.get("model") if isinstance(request, dict) else None
    if not isinstance(name, str):
        text = "`model` must name a model; GET /v1/models lists them."
        raise Refusal(400, text, "invalid_request_error", "missing_model", "model")
    return name


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "rayloom"}


def _need(method: str, wanted: str) -> None:
    if method != wanted:
        raise Refusal(405, f"Use {wanted} here.", "invalid_request_error", "method_not_allowed")


def _forwarded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """What the engine is told of the request beside its body, which is JSON, as was seen."""
    ids = [(bytes(name), bytes(value)) for name, value in headers if name == b"x-request-id"]
    return [(b"content-type", b"application/json"), *ids]


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _send_json(send: Send, status: int, value: Any) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message: Message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


BackendMaker = Callable[[str], Backend]
