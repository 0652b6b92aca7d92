"""The HTTP server inside a replica that listens on the service's port."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from rayloom.serve.transport.asgi_call import Application

BACKLOG = 2048
DRAIN_SECONDS = 10.0
"""How long requests that have begun may finish when the service stops."""


def bound(host: str, port: int) -> socket.socket:
    """A socket bound so that other replicas on this node can share it: the kernel gives each connection to one."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(address)
    return listening


class Listener:
    """An application that answers on a socket, in the event loop of whoever opened it."""

    def __init__(self, server: Any, serving: asyncio.Task[None]) -> None:
        self._server, self.serving = server, serving

    @classmethod
    async def opened(cls, application: Application, bound_socket: socket.socket) -> Listener:
        import uvicorn

        config = uvicorn.Config(
            application, log_config=None, access_log=False, lifespan="off", ws="none", backlog=BACKLOG,
            timeout_graceful_shutdown=int(DRAIN_SECONDS),
        )  # fmt: skip
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[bound_socket]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if serving.done():
            serving.result()
        return cls(server, serving)

    @property
    def is_open(self) -> bool:
        return not self.serving.done()

    async def close(self) -> None:
        """Takes no new requests, and returns when those that have begun are answered or after DRAIN_SECONDS."""
        self._server.should_exit = True
        await asyncio.wait({self.serving})
