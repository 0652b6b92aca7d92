"""The gateway's Ray Serve deployments: handles to replicas, keys from the store, access log, and a request's text."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from grpc.aio import AioRpcError  # type: ignore[import-untyped]
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from rayloom.artifacts.store import Store
from rayloom.serve.gateway import pages
from rayloom.serve.gateway.access_log import AccessRecord, file_sink
from rayloom.serve.gateway.admission import Admission
from rayloom.serve.gateway.application import Gateway, RequestLimits, StaticPage
from rayloom.serve.gateway.metrics import RequestMetrics
from rayloom.serve.gateway.routes import Route, Routes, VersionShare, shares_of
from rayloom.serve.gateway.stored_keys import StoredKeys
from rayloom.serve.replicas.adapters import AdapterCatalog
from rayloom.serve.replicas.engine_internals import model_handle
from rayloom.serve.transport.answer_channel import AnswerReceiver
from rayloom.serve.transport.asgi_call import Application, Frames, Listener, bound
from rayloom.serve.transport.relay import Call, QueueFull, ReplicaLost
from rayloom.specs.serve import AccessRules, Adapters

ENGINE = "engine"
MAX_HANDLES = 256
LAST_FRAME_SECONDS = 5.0
"""How long after Serve says that a request is done the last frame of its answer can arrive."""
_LOST = (RayActorError, ActorDiedError, ActorUnavailableError, AioRpcError, DeploymentUnavailableError)


@dataclass(frozen=True)
class GatewaySettings:
    """The settings of a gateway, except for its routes, which can change while it runs."""

    service: str
    store_uri: str
    doors: AccessRules
    num_gateways: int
    access_log: str | None
    log_prompts: bool
    has_chat_page: bool
    may_sleep: frozenset[str]
    """Models that can scale to zero: they count as ready without a replica, which the next request starts."""
    adapters: dict[str, Adapters]
    """Adapter settings by model, for models that serve adapters."""
    on_several_nodes: bool = False
    """Whether each gateway runs on a node of its own, instead of all on the caller's."""
    keys_folder: str | None = None
    """A folder with further keys as files, beside those of the store (see `api_keys.mounted`)."""


@dataclass(frozen=True)
class ReplicaBackend:
    """Sends requests to the replicas of one application by Serve's handle; answers come by the answer channel."""

    handle: Any
    receiver: AnswerReceiver
    by_adapter: dict[str, Any] = field(default_factory=dict)
    followed: set[asyncio.Task[None]] = field(default_factory=set)
    """Tasks of calls that have not ended; the event loop itself keeps only weak references."""
    unaccepted: set[Frames] = field(default_factory=set)
    """Frames of requests that no replica has accepted yet."""

    async def ask(self, call: Call) -> AsyncGenerator[bytes, None]:
        handle = self.handle if not call.adapter else self._for_adapter(call.adapter)
        with self.receiver.expect() as (reply_to, frames):
            answer = handle.http.remote(call.path, call.headers, RequestBody(call.body), reply_to)
            self.unaccepted.add(frames)
            following = asyncio.ensure_future(self._follow(answer, frames))
            self.followed.add(following)
            following.add_done_callback(self.followed.discard)
            is_whole = False
            try:
                async with aclosing(frames.read()) as arriving:
                    async for frame in arriving:
                        yield frame
                is_whole = True
            finally:
                self.unaccepted.discard(frames)
                if not is_whole:  # otherwise Serve's call is about to end by itself, as done and not as cancelled
                    following.cancel()
                    answer.cancel()

    async def _follow(self, answer: Any, frames: Frames) -> None:
        """Waits for Serve to end a request, and reads its frames from Serve if they do not use the answer channel."""
        came_by_channel = False
        try:
            async for frame in answer:
                self.unaccepted.discard(frames)
                came_by_channel = not frame
                if frame:
                    frames.put(frame)
        except BackPressureError:
            frames.end(QueueFull())
        except _LOST:
            frames.end(ReplicaLost())
        except Exception as error:  # noqa: BLE001 (raised again in the reader)
            frames.end(error)
        else:
            if not came_by_channel:
                frames.end()
            elif not frames.is_over:
                asyncio.get_running_loop().call_later(LAST_FRAME_SECONDS, frames.end, ReplicaLost())

    def retire(self) -> None:
        """Ends requests that no replica has accepted, so that the relay sends them to another version.

        Serve would keep them for ever after their application is deleted. Requests being computed are finished.
        """
        for frames in self.unaccepted:
            frames.end(ReplicaLost())

    def _for_adapter(self, adapter: str) -> Any:
        """A handle with which Serve prefers replicas that have the adapter loaded."""
        if adapter not in self.by_adapter:
            if len(self.by_adapter) >= MAX_HANDLES:
                self.by_adapter.clear()
            self.by_adapter[adapter] = self.handle.options(multiplexed_model_id=adapter)
        return self.by_adapter[adapter]

    @property
    def is_ready(self) -> bool:
        return bool(self.handle.running_replicas_populated())


class GatewayReplica:
    """The base of both deployments of the gateway; Serve calls `reconfigure` with the routes."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings, self._store = settings, Store(settings.store_uri)
        self._backends: dict[str, ReplicaBackend] = {}
        self._receiver: AnswerReceiver | None = None
        self._keys = stored_keys(settings)
        self._gateway = gateway_of(settings, self._keys, Routes({}), self._ready)

    async def reconfigure(self, routes: dict[str, Any]) -> None:
        """Sets `{"models": {MODEL: {"shares": [[APPLICATION, SHARE], …], "base_digests": […], "path": …}}}`."""
        if self._keys is not None:
            self._keys.watch()
        receiver = self._receiver = self._receiver or await _opened_receiver()
        before = self._backends
        self._backends = {
            application: before.get(application) or ReplicaBackend(model_handle(ENGINE, application), receiver)
            for model in routes["models"].values()
            for application, _ in model["shares"]
        }
        self._gateway.routes = Routes({name: self._route(name, model) for name, model in routes["models"].items()})
        for application in before.keys() - self._backends.keys():
            before[application].retire()

    def _route(self, name: str, model: dict[str, Any]) -> Route:
        shares = shares_of(VersionShare(self._backends[application], share) for application, share in model["shares"])
        spec, digests = self._settings.adapters.get(name), frozenset(model["base_digests"])
        catalog = AdapterCatalog(self._store, name, spec, digests) if spec is not None else None
        return Route(shares, catalog, model.get("path"))

    def _ready(self) -> dict[str, bool]:
        routes = self._gateway.routes.routes
        asleep = self._settings.may_sleep
        return {
            name: name in asleep or any(_is_ready(s.backend) for s in route.shares) for name, route in routes.items()
        }


class ProxiedGateway(GatewayReplica):
    """The gateway behind Ray Serve's own proxies, which KubeRay watches."""

    def __serve_build_asgi_app__(self) -> Application:
        return self._gateway


class ListeningGateway(GatewayReplica):
    """The gateway that listens on the service's port itself, without a proxy."""

    def __init__(self, settings: GatewaySettings, host: str, port: int) -> None:
        super().__init__(settings)
        self._socket = bound(host, port)
        self._listener: Listener | None = None

    async def reconfigure(self, routes: dict[str, Any]) -> None:
        await super().reconfigure(routes)
        if self._listener is None:
            self._listener = await Listener.opened(self._gateway, self._socket)

    def check_health(self) -> None:
        if self._listener is None or not self._listener.is_open:
            raise RuntimeError("the gateway does not listen")

    async def __del__(self) -> None:  # noqa: PLE0302, RUF100 (Serve awaits it when it stops a replica)
        if self._listener is not None:
            await self._listener.close()


async def _opened_receiver() -> AnswerReceiver:
    """The receiver, open unless Ray uses TLS: the channel is not encrypted, so answers then go through Ray Serve."""
    receiver = AnswerReceiver()
    if os.environ.get("RAY_USE_TLS", "0") in ("0", "", "false"):
        await receiver.open(ray.util.get_node_ip_address())
    return receiver


def _is_ready(backend: Any) -> bool:
    return isinstance(backend, ReplicaBackend) and backend.is_ready


def stored_keys(settings: GatewaySettings) -> StoredKeys | None:
    """The service's API keys, on which the caller calls `watch`; None if requests need no key."""
    if not settings.doors.keys_required:
        return None
    return StoredKeys(Store(settings.store_uri), Path(settings.keys_folder) if settings.keys_folder else None)


def gateway_of(
    settings: GatewaySettings,
    keys: StoredKeys | None,
    routes: Routes,
    is_ready: Callable[[], Mapping[str, bool]] | None = None,
) -> Gateway:
    """A gateway with the service's keys, limits, log and metrics."""
    doors, ring = settings.doors, keys.ring if keys is not None else None
    admission = Admission(ring, doors.requests_per_minute, settings.num_gateways)
    limits = RequestLimits(
        doors.max_request_bytes, doors.deadline_seconds, settings.log_prompts, doors.max_answers_per_request
    )
    page = StaticPage(pages.CHAT_HEADERS, pages.chat_page()) if settings.has_chat_page else None
    return Gateway(routes, admission, limits, _recorder(settings), is_ready, page)


def _recorder(settings: GatewaySettings) -> Callable[[AccessRecord], None]:
    sinks: list[Callable[[AccessRecord], None]] = [RequestMetrics(settings.service).count]
    if settings.access_log is not None:
        sinks.append(file_sink(Path(settings.access_log)))

    def record(request: AccessRecord) -> None:
        for sink in sinks:
            sink(request)

    return record


# The text of a request, in which the prefix router finds common prefixes.


class RequestBody(bytes):
    """The body of a request, with its text as `prompt` for Ray's prefix router; pickled as plain bytes."""

    @cached_property
    def prompt(self) -> str:
        return text_of(self)

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (bytes(self),)


def text_of(body: bytes) -> str:
    """The text that the model reads, in order; empty if it cannot be determined (any replica then gets the request)."""
    try:
        request = json.loads(body)
    except ValueError:
        return ""
    messages = request.get("messages") if isinstance(request, dict) else None
    if isinstance(messages, list):
        return "\n".join(_content(message) for message in messages)
    prompt = request.get("prompt") if isinstance(request, dict) else None
    return prompt if isinstance(prompt, str) else ""


def _content(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else json.dumps(content)
