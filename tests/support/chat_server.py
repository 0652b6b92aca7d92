"""A small OpenAI-compatible server on loopback, that answers by a function and can refuse, be slow, or count."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Refusal = tuple[int, dict[str, str], dict[str, Any]]
"""Status, headers and body of a refused request."""


@dataclass
class ChatServer:
    """What the server does and has seen."""

    answer: Callable[[str], str]
    """Takes the user's message."""
    refuse: Callable[[int], Refusal | None] = lambda _: None
    """Takes the number of the request, from 0 on."""
    delay_seconds: float = 0.0
    url: str = ""
    prompts: Counter[str] = field(default_factory=Counter)
    """How often each message was answered."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def respond(self, body: dict[str, Any], headers: dict[str, str]) -> Refusal:
        with self._lock:
            number = len(self.times)
            self.times.append(time.monotonic())
            self.headers.append(headers)
            self.bodies.append(body)
        refusal = self.refuse(number)
        if refusal is not None:
            return refusal
        time.sleep(self.delay_seconds)
        prompt = body["messages"][-1]["content"]
        text = self.answer(prompt)
        with self._lock:
            self.prompts[prompt] += 1
        words = text.split()
        is_cut = len(words) > body["max_tokens"]
        choice = {
            "message": {"role": "assistant", "content": " ".join(words[: body["max_tokens"]]) if is_cut else text},
            "finish_reason": "length" if is_cut else "stop",
        }
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": min(len(words), body["max_tokens"])}
        return 200, {}, {"choices": [choice], "usage": usage, "model": f"{body['model']}-2026-11"}


@contextmanager
def chat_server(answer: Callable[[str], str], **how: Any) -> Iterator[ChatServer]:
    """The server, while the block runs."""
    state = ChatServer(answer, **how)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, values = state.respond(body, dict(self.headers))
            content = json.dumps(values).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):  # the client has gone
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    serving = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    serving.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
