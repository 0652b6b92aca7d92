"""A judge behind an endpoint: what it is asked, how its number is scaled, and what is said when it gives none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import TypeAdapter

from rayloom.errors import InputError, ResourceError
from rayloom.rewards.answer import Verdict, WrittenAnswer
from rayloom.rewards.opening import opened
from rayloom.specs.training.rewards import Rewards

RUBRIC = "Topic {{topic}}. The question was:\n{{prompt}}\nRate this answer: {{answer}}"


class _Endpoint(BaseHTTPRequestHandler):
    """Speaks as much of the API as a judge needs; what it replies is the last word of the question."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        model = {"id": "judge-model", "object": "model", "created": 0, "owned_by": ""}
        self._send(200, {"object": "list", "data": [model]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"]
        self.asked.append(question)
        if question.endswith("refuse"):
            self._send(400, {"error": {"message": "too long for me"}})
            return
        message = {"role": "assistant", "content": f"Well argued. Score: {question.split()[-1]}"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self._send(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *_: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def endpoint() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Endpoint.asked.clear()
    yield server
    server.shutdown()
    server.server_close()


def judged(url: str, folder: Path, *texts: str, stop: Any = None, **changes: Any) -> list[Verdict]:
    (folder / "rubric.txt").write_text(RUBRIC)
    spec = {"type": "judge", "url": url, "model": "judge-model", "rubric": "./rubric.txt", "at_once": 2} | changes
    prompt = [{"role": "user", "content": "Why?"}]
    with opened(TypeAdapter(Rewards).validate_python([spec]), "rewards", {}, folder) as (judge,):
        if stop is not None:
            stop.shutdown()
            stop.server_close()
        return judge.function.judge(
            [WrittenAnswer(prompt, text, {"topic": "physics", "answer": "the right one"}) for text in texts]
        )


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def test_the_last_number_of_the_reply_is_scaled(endpoint: ThreadingHTTPServer, tmp_path: Path) -> None:
    said = judged(url_of(endpoint), tmp_path, "10", "1", "5.5", "5.5/10", "11", "none", "refuse", "")
    assert [verdict.value for verdict in said] == [1.0, 0.0, 0.5, 0.5, None, None, None, None]
    assert [verdict.problem_name for verdict in said[4:7]] == ["no_number", "no_number", "judge_refuses"]
    assert any(question.endswith("Rate this answer: ") for question in _Endpoint.asked)
    assert "Topic physics. The question was:\nuser: Why?\nRate this answer: 10" in _Endpoint.asked


def test_a_judge_that_goes_down_is_a_named_problem(endpoint: ThreadingHTTPServer, tmp_path: Path) -> None:
    # It is asked three times, with pauses.
    (verdict,) = judged(url_of(endpoint), tmp_path, "10", stop=endpoint)
    assert verdict.problem_name == "judge_down"


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"url": "http://127.0.0.1:9/v1"}, ResourceError, "The endpoint does not answer"),
        ({"model": "other"}, InputError, "The endpoint has no model other; it has judge-model"),
        ({"rubric": "./none.txt"}, InputError, "The judge's rubric is not there"),
        ({"api_key_variable": "NO_SUCH_KEY"}, InputError, "The environment variable NO_SUCH_KEY is not set"),
    ],
)
def test_a_judge_that_cannot_judge_is_named_before_anything_is_judged(
    changes: dict[str, Any], error: type[Exception], said: str, endpoint: ThreadingHTTPServer, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        judged(changes.pop("url", url_of(endpoint)), tmp_path, **changes)
