"""The gateway as an ASGI application: admits each request, finds the model that it names, and relays the answer.

It depends on neither Ray nor an engine: a `Backend` answers a request with byte frames (see `asgi_call`), so a test can
pass a plain function. The engine gets the client's bytes unchanged (except for an adapter's name), and the client gets
the engine's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from rayloom.serve.gateway import pages
from rayloom.serve.gateway.access_log import AccessRecord, Stopwatch
from rayloom.serve.gateway.admission import Admission
from rayloom.serve.gateway.client_request import (
    ClientLeft,
    ClientRequest,
    cancelled_without_client,
    forward_piece,
    num_answers,
    parsed_body,
    read_body,
    refuse,
    require_no_encoding,
    send_json,
    send_piece,
    send_response,
    start_response,
)
from rayloom.serve.gateway.routes import RequestTarget, Routes
from rayloom.serve.replicas.predictor_requests import ENDPOINTS
from rayloom.serve.transport.asgi_call import Headers, Message, Receive, Scope, Send
from rayloom.serve.transport.relay import (
    SERVER,
    Backend,
    Call,
    Refusal,
    ReplicaLost,
    Reply,
    as_openai_error,
    begin,
    header,
)

MODEL_PATHS = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/tokenize", "/detokenize"}
)
MAX_NAME_CHARACTERS = 128
OPEN_PATHS = frozenset({"/health", "/ready", "/docs", "/openapi.json"})
"""Paths that need no key: for monitoring, and the API documentation, which names no model."""


_LOG = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class RequestLimits:
    """Limits of a single request."""

    max_request_bytes: int
    deadline_seconds: float
    log_prompts: bool = False
    max_answers: int = 128


@dataclass(frozen=True)
class StaticPage:
    """The page at `/`. It needs no key; the page itself asks for one."""

    headers: Headers
    body: bytes


class Gateway:
    """Answers every request; `routes` may be replaced at any time."""

    def __init__(
        self,
        routes: Routes,
        admission: Admission,
        limits: RequestLimits,
        record: Callable[[AccessRecord], None],
        is_ready: Callable[[], Mapping[str, bool]] | None = None,
        page: StaticPage | None = None,
    ) -> None:
        self.routes = routes
        self._admission, self._limits, self._record, self._page = admission, limits, record, page
        self._is_ready = is_ready or (lambda: dict.fromkeys(self.routes.routes, True))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _answer_lifespan(receive, send)
        elif scope["type"] == "http":
            request_id = header(scope["headers"], b"x-request-id") or secrets.token_hex(16)
            record = AccessRecord(request_id, scope["method"], scope["path"])
            await self._answer(ClientRequest(scope, receive, send, record, Stopwatch()))

    async def _answer(self, request: ClientRequest) -> None:
        record = request.record
        try:
            await self._route(request)
        except ClientLeft:
            record.error = "client_left"
        except asyncio.CancelledError:
            record.error = "client_left"
            raise
        except Exception as error:  # noqa: BLE001 (for any failure, the client gets an error in OpenAI's form)
            refusal = error if isinstance(error, Refusal) else _defect(record.request_id)
            record.error = refusal.code or ""
            await refuse(request, refusal)
        finally:
            record.seconds = request.watch.seconds()
            self._record(record)

    async def _route(self, request: ClientRequest) -> None:
        path, method = request.record.path, request.record.method
        if path == "/" and self._page is not None:
            _require_method(method, "GET")
            await send_response(request, 200, self._page.headers, self._page.body)
            return
        if path not in OPEN_PATHS:
            request.record.caller = self._admission.admit(request.scope["headers"])
        if path in MODEL_PATHS or path in ENDPOINTS:
            _require_method(method, "POST")
            await self._ask_model(request)
            return
        if path == "/docs":
            _require_method(method, "GET")
            await send_response(request, 200, pages.DOCS_HEADERS, pages.docs_page())
            return
        status, value = await self._service_answer(path)
        _require_method(method, "GET")
        await send_json(request, status, value)

    async def _service_answer(self, path: str) -> tuple[int, dict[str, Any]]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [self._model_card(name) for name in await self.routes.names()]}
        if path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models/")
            await self.routes.resolve(name)
            return 200, self._model_card(name)
        if path == "/openapi.json":
            return 200, pages.openapi()
        if path == "/health":
            return 200, {"status": "ok"}
        if path == "/ready":
            ready = dict(self._is_ready())
            return (200 if all(ready.values()) else 503), {"models": ready}
        raise Refusal(404, f"There is no {path} here.", code="not_found")

    def _model_card(self, name: str) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": 0, "owned_by": "rayloom"}
        route = self.routes.routes.get(name)
        return card if route is None or route.path is None else card | {"path": route.path}

    async def _ask_model(self, request: ClientRequest) -> None:
        require_no_encoding(request.scope["headers"])
        body = await read_body(request, self._limits.max_request_bytes)
        record = request.record
        record.request_bytes = len(body)
        if self._limits.log_prompts:
            record.prompt = body.decode("utf-8", "replace")
        fields = parsed_body(body)
        if num_answers(fields) > self._limits.max_answers:
            text = f"A request may ask for {self._limits.max_answers} answers at most (prompts times `n`)."
            raise Refusal(400, text, code="too_many_answers", param="n")
        record.model = fields["model"][:MAX_NAME_CHARACTERS]
        target = await self.routes.resolve(fields["model"])
        _require_path(record, target)
        record.served_by, _, record.adapter = record.model.partition(":")
        if target.adapter:
            body = json.dumps(fields | {"model": target.adapter}).encode()
        call = Call(record.path, _engine_headers(record.request_id), body, target.adapter)

        async def choose() -> Backend:
            return (await self.routes.resolve(fields["model"])).backend

        with cancelled_without_client(request):
            await self._relay(request, choose, call)

    async def _relay(self, request: ClientRequest, choose: Callable[[], Awaitable[Backend]], call: Call) -> None:
        try:
            async with asyncio.timeout(self._limits.deadline_seconds):
                reply = await begin(choose, call)
                request.record.num_attempts, request.record.replica = reply.num_attempts, reply.replica
                await _forward(request, reply)
        except TimeoutError:
            text = f"The answer was not ready within {self._limits.deadline_seconds:g} s."
            raise Refusal(504, text, kind=SERVER, code="deadline_exceeded") from None
        except ReplicaLost:
            text = "The replica that computed this answer was lost: ask again."
            raise Refusal(503, text, kind=SERVER, code="cut_off") from None


async def _forward(request: ClientRequest, reply: Reply) -> None:
    async with aclosing(reply.rest) as rest:
        if reply.status >= 400:
            whole = b"".join([reply.first, *[frame async for frame in rest]])
            body = as_openai_error(reply.status, whole, request.record.request_id, _missing_path(request.record))
            await send_response(request, reply.status, [(b"content-type", b"application/json")], body)
            return
        request.record.first_piece_seconds = request.watch.seconds()
        if request.scope.get("http_version") == "1.0":  # HTTP/1.0 has no chunked encoding
            whole = b"".join([reply.first, *[frame async for frame in rest]])
            await send_response(request, reply.status, reply.headers, whole)
            return
        await start_response(request, reply.status, reply.headers)
        await forward_piece(request, reply.first)
        async for frame in rest:
            await forward_piece(request, frame)
        await send_piece(request, b"", more=False)


def _defect(request_id: str) -> Refusal:
    """The refusal for a request that failed with an unexpected exception; logs the exception."""
    _LOG.exception("request %s failed", request_id)
    return Refusal(500, "The service failed; its log says why.", kind=SERVER, code="internal_error")


def _require_path(record: AccessRecord, target: RequestTarget) -> None:
    if target.path is None and record.path in ENDPOINTS:
        text = f"{record.model} is a language model: ask it at /v1/chat/completions or /v1/completions."
        raise Refusal(400, text, code="wrong_path", param="model")
    if target.path is not None and record.path != target.path:
        raise Refusal(400, f"{record.model} answers at {target.path}.", code="wrong_path", param="model")


def _missing_path(record: AccessRecord) -> str:
    return f"{record.model} does not answer at {record.path}."


def _require_method(method: str, wanted: str) -> None:
    if method != wanted and not (method == "HEAD" and wanted == "GET"):
        raise Refusal(405, f"Use {wanted} here.", code="method_not_allowed")


def _engine_headers(request_id: str) -> Headers:
    """The headers for the engine, with a new request id, because a client can send the same id twice."""
    return [
        (b"content-type", b"application/json"),
        (b"x-request-id", f"{request_id[:64]}-{secrets.token_hex(4)}".encode("latin-1", "replace")),
    ]


async def _answer_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message: Message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
