"""Requests to an OpenAI-compatible endpoint: limits, Retry-After, errors that pass and that do not, budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from support.chat_server import chat_server

from rayloom.errors import InputError, ResourceError
from rayloom.models.chat_endpoint import Account, ChatEndpoint, RefusedError, retry_after_seconds
from rayloom.specs.generation.engines import EndpointBudget, EndpointEngine

HELLO = [{"role": "user", "content": "Say hello"}]
PRICES = {"price_per_million_input_tokens": 1e6, "price_per_million_output_tokens": 1e6}


Open = Callable[..., ChatEndpoint]


@pytest.fixture
def endpoint() -> Iterator[Open]:
    """Opens endpoints, and closes them after the test."""
    with ExitStack() as closing:

        def opened(url: str, *, sleep: Callable[[float], None] = time.sleep, **values: Any) -> ChatEndpoint:
            made = ChatEndpoint(EndpointEngine(type="endpoint", url=url, model="m", **values), sleep=sleep)
            closing.callback(made.close)
            return made

        yield opened


def test_an_answer_with_its_tokens_and_the_version_of_the_model(
    endpoint: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", " secret ")
    with chat_server(lambda _: "Hello there, friend") as server:
        one = endpoint(server.url, api_key_variable="MY_KEY")
        whole, cut = one.reply(HELLO, 10, temperature=0.0), one.reply(HELLO, 2)
    assert (whole.text, whole.num_tokens, whole.num_prompt_tokens, whole.is_cut) == ("Hello there, friend", 3, 2, False)
    assert (cut.text, cut.is_cut, cut.model) == ("Hello there,", True, "m-2026-11")
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert server.bodies[0]["temperature"] == 0.0


def test_a_missing_key_is_said_before_anything_is_sent(endpoint: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(InputError, match="MY_KEY is not set"):
        endpoint("http://127.0.0.1:9/v1", api_key_variable="MY_KEY")


def test_all_requests_wait_as_long_as_the_endpoint_asks_for(endpoint: Open) -> None:
    waits: list[float] = []
    limit = (429, {"Retry-After": "90"}, {"error": {"message": "slow down"}})
    with chat_server(lambda _: "hi", refuse=lambda number: limit if number == 0 else None) as server:
        one = endpoint(server.url, sleep=waits.append)
        assert one.reply(HELLO, 5).text == "hi"
        one.reply(HELLO, 5)
    # The clock did not move, as the sleep was none: so the second request waits too, which no thread of its own began.
    assert [round(wait) for wait in waits] == [90, 90]


def test_requests_are_spread_over_the_minute(endpoint: Open) -> None:
    began = time.monotonic()
    with chat_server(lambda _: "hi") as server:
        one = endpoint(server.url, requests_per_minute=600)
        for _ in range(4):
            one.reply(HELLO, 5)
    # A busy machine may bring one late and so near to the next, but none too early.
    assert all(moment >= began + 0.1 * number for number, moment in enumerate(server.times))


def test_a_date_or_nonsense_in_retry_after() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after_seconds(soon) == pytest.approx(30, abs=2)
    assert (retry_after_seconds("1.5"), retry_after_seconds("soon"), retry_after_seconds(None)) == (1.5, None, None)


@pytest.mark.parametrize(
    ("status", "error", "expected", "said"),
    [
        (401, {"message": "bad key"}, InputError, "refuses: 401 Unauthorized: bad key"),
        (404, {"message": "no such model"}, InputError, "no such model"),
        (402, {"message": "pay"}, ResourceError, "no money left"),
        (429, {"message": "quota", "code": "insufficient_quota"}, ResourceError, "no money left"),
        (400, {"message": "too long"}, RefusedError, "400 Bad Request: too long"),
        (503, {"message": "busy"}, ResourceError, "did not answer 2 times; the last time: 503"),
    ],
)
def test_errors_say_whether_waiting_helps(
    endpoint: Open, status: int, error: dict[str, str], expected: type[Exception], said: str
) -> None:
    with chat_server(lambda _: "hi", refuse=lambda _: (status, {}, {"error": error})) as server:
        one = endpoint(server.url, num_attempts=2, sleep=lambda _: None)
        with pytest.raises(expected, match=said):
            one.reply(HELLO, 5)
        assert len(server.times) == (2 if status == 503 else 1)


def test_an_endpoint_that_is_down_or_too_slow_stops_the_job(endpoint: Open) -> None:
    down = endpoint("http://127.0.0.1:9/v1", num_attempts=2, sleep=lambda _: None)
    with pytest.raises(ResourceError, match="did not answer 2 times; the last time: ConnectError"):
        down.reply(HELLO, 5)
    with chat_server(lambda _: "hi", delay_seconds=1.0) as server:
        slow = endpoint(server.url, num_attempts=1, timeout_seconds=0.1)
        with pytest.raises(ResourceError, match="ReadTimeout"):
            slow.reply(HELLO, 5)


def test_an_answer_in_another_form_costs_itself(endpoint: Open) -> None:
    with chat_server(lambda _: "hi", refuse=lambda _: (200, {}, {"choices": []})) as server:
        one = endpoint(server.url)
        with pytest.raises(RefusedError, match="another form"):
            one.reply(HELLO, 5)


def test_no_request_is_sent_that_could_cost_more_than_is_left(endpoint: Open) -> None:
    with chat_server(lambda _: "one two") as server:
        one = endpoint(server.url, budget={"cost": 21, **PRICES})
        one.reply(HELLO, 5)  # may cost 9 + 5, costs 2 + 2
        one.reply(HELLO, 5)
        with pytest.raises(ResourceError, match=r"budget is spent \(8 of 21\)"):
            one.reply(HELLO, 5)
        assert len(server.times) == 2


def test_what_earlier_runs_paid_counts() -> None:
    account = Account(EndpointBudget(cost=10, **PRICES), (3, 4))
    assert account.cost == pytest.approx(7)
    with pytest.raises(ResourceError, match="7 of 10"):
        account.reserve(2, 2, "")
    account.reserve(1, 2, "")
    account.settle(1, 2, 1, 1)
    assert account.cost == pytest.approx(9)


def test_a_budget_needs_an_endpoint_that_counts(endpoint: Open) -> None:
    silent = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
    with chat_server(lambda _: "hi", refuse=lambda _: (200, {}, silent)) as server:
        assert endpoint(server.url).reply(HELLO, 5).model == "m"
        with pytest.raises(InputError, match="does not say how many tokens"):
            endpoint(server.url, budget={"cost": 99, **PRICES}).reply(HELLO, 5)
