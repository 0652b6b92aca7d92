"""A server before an S3 server that lets faults happen: some requests fail, stall, or are cut off half way."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

REASONS = {
    500: "InternalError", 503: "SlowDown", 403: "ExpiredToken", 507: "XMinioStorageFull",
}  # fmt: skip
_ANSWER = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{0}</Code><Message>{0}</Message></Error>'


@dataclass(frozen=True)
class Request:
    """One request, by its number since the faults began."""

    number: int
    method: str
    path: str
    range: str = ""
    """The bytes that it asks for, if not all."""


@dataclass(frozen=True)
class Fault:
    """What happens to a request instead of an answer."""

    status: int = 0
    """The answer's status, if it is refused."""
    stall_seconds: float = 0.0
    is_cut: bool = False
    """The connection is closed after half of the request's body, or of the answer if the request has none."""


@dataclass
class BadStore:
    """The server's address, and which request meets which fault."""

    endpoint: str
    fault_of: Callable[[Request], Fault | None] = lambda _: None
    num_faults: int = 0
    num_requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, fault_of: Callable[[Request], Fault | None]) -> None:
        self.fault_of, self.num_faults, self.num_requests = fault_of, 0, 0

    def fault(self, method: str, path: str, range_: str) -> Fault | None:
        with self._lock:
            self.num_requests += 1
            found = self.fault_of(Request(self.num_requests, method, path, range_))
            self.num_faults += found is not None
            return found


def _kept(answer: http.client.HTTPResponse, content: bytes, method: str) -> Iterator[tuple[str, str]]:
    """The headers that the answer has when it is passed on."""
    for name, value in answer.getheaders():
        if name.lower() not in ("transfer-encoding", "connection", "content-length"):
            yield name, value
    yield "Content-Length", answer.headers.get("Content-Length", "0") if method == "HEAD" else str(len(content))


@contextmanager
def bad_store(behind: str) -> Iterator[BadStore]:
    """Serves on loopback; `behind`: the real server's URL."""
    target = urlsplit(behind).netloc
    store = BadStore("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            fault = store.fault(self.command, self.path, self.headers.get("Range", ""))
            length = int(self.headers.get("Content-Length", 0))
            if fault is not None and fault.is_cut and length > 0:
                self.rfile.read(length // 2)
                self._cut()
                return
            body = self.rfile.read(length)
            if fault is not None and fault.status:
                text = _ANSWER.format(REASONS[fault.status]).encode()
                self.send_response(fault.status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)
                return
            if fault is not None:
                time.sleep(fault.stall_seconds)
            with closing(http.client.HTTPConnection(target, timeout=60)) as connection:
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
            self.send_response(answer.status)
            for name, value in _kept(answer, content, self.command):
                self.send_header(name, value)
            self.end_headers()
            if fault is not None and fault.is_cut:
                self.wfile.write(content[: len(content) // 2])
                self._cut()
                return
            self.wfile.write(content)

        def _cut(self) -> None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 (the names are http.server's)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
