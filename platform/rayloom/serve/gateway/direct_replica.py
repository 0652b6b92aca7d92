"""`profile: direct`: each replica listens on the service's port and answers from the engine's own process.

Without a proxy or gateway process between client and engine, this has the lowest latency. Keys, limits, log and metrics
are the same as the gateway's. Not supported: several models or adapters on one endpoint, a common queue of several
replicas (the kernel distributes connections), autoscaling, retries after the loss of a replica, and rolling updates.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

from rayloom.serve.gateway.deployment import GatewaySettings, gateway_of, stored_keys
from rayloom.serve.gateway.routes import single_versions
from rayloom.serve.replicas.engine_replica import RunningEngine
from rayloom.serve.replicas.engine_settings import EngineSettings
from rayloom.serve.transport.asgi_call import REPLICA_HEADER, Listener, bound, call_application, with_header
from rayloom.serve.transport.relay import Call, QueueFull

_LOG = logging.getLogger("ray.serve")


@dataclass
class LocalBackend:
    """Sends requests to the engine of this process."""

    engine: RunningEngine
    max_requests: int
    """Most requests running or waiting; further ones are refused."""
    num_requests: int = 0

    async def ask(self, call: Call) -> AsyncGenerator[bytes, None]:
        if self.num_requests >= self.max_requests:
            raise QueueFull
        self.num_requests += 1
        try:
            async with aclosing(
                call_application(self.engine.application, call.path, call.headers, call.body)
            ) as frames:
                yield with_header(await anext(frames), REPLICA_HEADER, self.engine.name)
                async for frame in frames:
                    yield frame
        finally:
            self.num_requests -= 1


class DirectReplica:
    """A Ray Serve deployment that listens on the service's port; no request comes by a handle.

    Engine and HTTP server share one uvloop event loop in a thread of its own, because Ray Serve's loop is asyncio's.
    """

    async def __init__(self, settings: EngineSettings, gateway: GatewaySettings, host: str, port: int) -> None:  # type: ignore[misc]  # Serve awaits it
        self._loop: asyncio.AbstractEventLoop
        self._engine: RunningEngine
        is_up: Future[None] = Future()
        serving = self._serve(settings, gateway, bound(host, port), is_up)
        threading.Thread(target=_in_own_loop, args=(serving, is_up), daemon=True).start()
        await asyncio.wrap_future(is_up)

    async def _serve(
        self, settings: EngineSettings, gateway: GatewaySettings, bound_socket: socket.socket, is_up: Future[None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine = await RunningEngine.started(settings)
        scaling = settings.served.autoscaling
        backend = LocalBackend(
            self._engine, scaling.max_ongoing_requests + scaling.max_queued_requests // gateway.num_gateways
        )
        keys = stored_keys(gateway)
        if keys is not None:
            keys.watch()
        listener = await Listener.opened(
            gateway_of(gateway, keys, single_versions({settings.served.name: backend})), bound_socket
        )
        is_up.set_result(None)
        await listener.serving

    async def start_times(self) -> dict[str, float | None]:
        return asdict(self._engine.start_times)

    async def check_health(self) -> None:
        future = asyncio.run_coroutine_threadsafe(self._engine.check_health(), self._loop)
        await asyncio.wrap_future(future)


def _in_own_loop(serving: Coroutine[Any, Any, None], is_up: Future[None]) -> None:
    import uvloop

    try:
        uvloop.run(serving)
    except BaseException as error:  # noqa: BLE001 (raised again by the start that waits for it, or else logged)
        if is_up.done():
            _LOG.exception("the replica stopped listening; its next health check fails, and it is started anew")
        else:
            is_up.set_exception(error)
