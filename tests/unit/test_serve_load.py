"""Percentiles and rates of a load, on cases worked by hand."""

from __future__ import annotations

import pytest

from rayloom.serve.load_test.clients import MeasuredAnswer
from rayloom.serve.load_test.figures import percentiles, summary


def answer(started: float, total: float, tokens: int, first: float | None = 0.5, **changes: object) -> MeasuredAnswer:
    facts = {"status": 200, "replica": "a"} | changes
    return MeasuredAnswer(started, first_token_seconds=first, total_seconds=total, num_tokens=tokens, **facts)  # type: ignore[arg-type]


def test_rates_are_over_the_time_from_the_first_request_to_the_last_answer() -> None:
    found = summary([answer(1.0, 2.0, 10), answer(2.0, 3.0, 20, replica="b")])
    assert found.seconds == 4.0
    assert found.tokens_per_second == 30 / 4
    assert found.requests_per_second == 2 / 4
    assert found.requests_by_replica == {"a": 1, "b": 1}


def test_the_time_per_token_leaves_the_first_token_out() -> None:
    found = summary([answer(0.0, 2.5, 5, first=0.5)])
    assert found.time_per_output_token is not None
    assert found.time_per_output_token.p50 == 0.5


def test_failures_are_counted_and_not_measured() -> None:
    refused = answer(0.0, 0.1, 0, first=None, status=429, replica="")
    cut_off = answer(0.0, 9.0, 3, error="cut off")
    found = summary([refused, cut_off, answer(0.0, 1.0, 4)])
    assert (found.num_requests, found.num_failed) == (3, 2)
    assert found.latency is not None
    assert found.latency.max == 1.0


def test_nothing_answered_is_no_division_by_zero() -> None:
    found = summary([])
    assert (found.tokens_per_second, found.latency) == (0.0, None)


def test_percentiles_are_of_all_values() -> None:
    found = percentiles([float(value) for value in range(101)])
    assert found is not None
    assert (found.p50, found.p90, found.p99, found.max) == pytest.approx((50, 90, 99, 100))
