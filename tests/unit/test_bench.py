"""`rayloom bench`: arrivals, prompts, limits, and both loops on a small server of this process."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rayloom.cli import main
from rayloom.errors import InputError
from rayloom.serve.load_test.clients import (
    LoadRequest,
    LoadTarget,
    MeasuredAnswer,
    closed_loop,
    open_loop,
    poisson_arrivals,
    prompts_in,
    repeated,
    requests_of,
)
from rayloom.serve.load_test.figures import LatencyObjectives, goodput

STREAM = [
    {"choices": [{"delta": {"content": "one"}}]},
    {"choices": [{"delta": {"content": " two"}}]},
    {"choices": [], "usage": {"completion_tokens": 2}},
]


class Endpoint(BaseHTTPRequestHandler):
    """A model that says two words, refuses what has `bad` in it, and answers `together` five at a time."""

    together = threading.Barrier(5)

    def do_GET(self) -> None:
        self._send(200, "application/json", json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "bad" in asked["messages"][0]["content"]:
            self._send(429, "application/json", json.dumps({"error": {"message": "too many"}}))
            return
        if "together" in asked["messages"][0]["content"]:
            self.together.wait(timeout=20)
        self._send(200, "text/event-stream", "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in STREAM))

    def _send(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_arrivals_are_random_and_keep_to_their_rate() -> None:
    found = poisson_arrivals(4000, 5.0, seed=1)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(800, rel=0.1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(found)]
    # An exponential's standard deviation is its mean; evenly spaced requests would have none.
    mean = sum(gaps) / len(gaps)
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.1)
    assert poisson_arrivals(10, 5.0, seed=1) == found[:10]
    assert poisson_arrivals(10, 5.0, seed=2) != found[:10]


def test_prompts_are_lines_of_text_or_json_and_go_round(tmp_path: Path) -> None:
    file = tmp_path / "prompts"
    file.write_text('plain\n\n{"prompt": "from json"}\n')
    assert prompts_in(file) == ["plain", "from json"]
    assert [r.prompt for r in requests_of(file, 3, 8, {})] == ["plain", "from json", "plain"]
    made_up = [request.prompt for request in requests_of(None, 50, 8, {})]
    assert len(set(made_up)) == 50


@pytest.mark.parametrize(("text", "said"), [("", "no prompt"), ('{"text": "x"}', ":1"), ('{"prompt"', ":1")])
def test_unusable_prompts_are_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "prompts").write_text(text)
    with pytest.raises(InputError, match=said):
        prompts_in(tmp_path / "prompts")


def answer(first: float, total: float, tokens: int = 11, status: int = 200) -> MeasuredAnswer:
    return MeasuredAnswer(0.0, status, first, total, tokens)


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        (LatencyObjectives(), 3),
        (LatencyObjectives(first_token_seconds=0.5), 2),
        (LatencyObjectives(per_token_seconds=0.1), 2),
        (LatencyObjectives(latency_seconds=1.2), 1),
        (LatencyObjectives(0.5, 0.1, 1.2), 1),
    ],
)
def test_good_answers_keep_to_every_limit(limits: LatencyObjectives, good: int) -> None:
    answers = [answer(0.2, 1.2), answer(0.9, 1.9), answer(0.4, 2.4), answer(0.1, 0.2, status=429)]
    found = goodput(answers, limits, seconds=2.0)
    assert found == {"requests_per_second": good / 2, "tokens_per_second": 11 * good / 2, "share": good / 4}


def test_in_a_closed_loop_no_client_has_two_requests_out_and_the_loop_ends_when_told(url: str) -> None:
    answers: list[MeasuredAnswer] = []
    requests = repeated([LoadRequest("one", 2), LoadRequest("two", 2)], lambda: len(answers) >= 7)
    returned = asyncio.run(closed_loop(LoadTarget(url, "m"), requests, 3, answers.append))
    assert returned == answers
    assert 7 <= len(answers) < 7 + 3
    assert all(answer.is_whole for answer in answers)
    ends = sorted(answer.started_seconds + answer.total_seconds for answer in answers)
    for number, answer in enumerate(sorted(answers, key=lambda answer: answer.started_seconds)):
        assert sum(end <= answer.started_seconds for end in ends) >= number - 2


def test_in_an_open_loop_requests_do_not_wait_for_answers(url: str) -> None:
    """The endpoint answers none of the five before all have come."""
    arrivals = [0.0, 0.0, 0.01, 0.02, 0.02]
    answers = asyncio.run(open_loop(LoadTarget(url, "m"), [LoadRequest("together", 2)] * 5, arrivals))
    assert all(answer.is_whole and answer.num_tokens == 2 for answer in answers)
    assert all(answer.started_seconds >= at - 0.001 for answer, at in zip(answers, arrivals, strict=True))


@pytest.mark.parametrize("load", [["--clients", "3"], ["--rate", "500"]], ids=["closed", "open"])
def test_the_command_prints_saves_and_reports(
    url: str, load: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, page = tmp_path / "result.json", tmp_path / "page.html"
    arguments = ["bench", url, *load, "--requests", "7", "--json", "--save", str(saved), "--report", str(page)]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(saved.read_text())
    assert (result["num_requests"], result["num_failed"], result["model"]) == (7, 0, "m")
    assert result["goodput"]["share"] == 1.0
    assert "<svg" in page.read_text()


def test_failed_requests_are_counted_by_their_error(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts").write_text("good\nbad\n")
    assert main(["bench", url, "--prompts", str(tmp_path / "prompts"), "--requests", "4"]) == 1
    assert "2 × too many" in capsys.readouterr().err
    (tmp_path / "prompts").write_text("bad\n")
    assert main(["bench", url, "--prompts", str(tmp_path / "prompts"), "--requests", "2"]) == 1
    assert "Every request failed" in capsys.readouterr().err
