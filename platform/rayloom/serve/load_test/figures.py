"""Statistics of a load test: time to first token, time per token, time of whole answers, throughput and goodput."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rayloom.serve.load_test.clients import MeasuredAnswer


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of a time in seconds."""

    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True)
class Summary:
    """The statistics of one load test."""

    num_requests: int
    num_failed: int
    seconds: float
    tokens_per_second: float
    requests_per_second: float
    time_to_first_token: Percentiles | None
    time_per_output_token: Percentiles | None
    latency: Percentiles | None
    requests_by_replica: dict[str, int]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def summary(answers: Sequence[MeasuredAnswer]) -> Summary:
    """Statistics over complete answers, from the first request sent to the last answer read."""
    whole = [answer for answer in answers if answer.is_whole]
    seconds = max((a.started_seconds + a.total_seconds for a in whole), default=0.0)
    seconds -= min((a.started_seconds for a in whole), default=0.0)
    per_token = [
        (a.total_seconds - a.first_token_seconds) / (a.num_tokens - 1)
        for a in whole
        if a.first_token_seconds is not None and a.num_tokens > 1
    ]
    replicas = sorted({a.replica for a in whole if a.replica})
    return Summary(
        num_requests=len(answers),
        num_failed=len(answers) - len(whole),
        seconds=round(seconds, 3),
        tokens_per_second=_rate(sum(a.num_tokens for a in whole), seconds),
        requests_per_second=_rate(len(whole), seconds),
        time_to_first_token=percentiles([a.first_token_seconds for a in whole if a.first_token_seconds is not None]),
        time_per_output_token=percentiles(per_token),
        latency=percentiles([a.total_seconds for a in whole]),
        requests_by_replica={replica: sum(a.replica == replica for a in whole) for replica in replicas},
    )


def percentiles(values: Sequence[float]) -> Percentiles | None:
    if not values:
        return None
    p50, p90, p99, largest = np.percentile(values, (50, 90, 99, 100))
    return Percentiles(*(round(float(value), 4) for value in (p50, p90, p99, largest)))


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds else 0.0


@dataclass(frozen=True)
class LatencyObjectives:
    """Upper bounds on the latencies of a good answer; None: no bound."""

    first_token_seconds: float | None = None
    per_token_seconds: float | None = None
    latency_seconds: float | None = None

    def are_met_by(self, answer: MeasuredAnswer) -> bool:
        if not answer.is_whole:
            return False
        first = answer.first_token_seconds
        rest = answer.total_seconds - (first or 0.0)
        each = rest / (answer.num_tokens - 1) if answer.num_tokens > 1 else 0.0
        measured = ((first or 0.0, self.first_token_seconds), (each, self.per_token_seconds))
        whole = (answer.total_seconds, self.latency_seconds)
        return all(limit is None or seconds <= limit for seconds, limit in (*measured, whole))


def goodput(answers: Sequence[MeasuredAnswer], objectives: LatencyObjectives, seconds: float) -> dict[str, float]:
    """The answers that meet the objectives: requests and tokens per second, and their share of all answers."""
    good = [answer for answer in answers if objectives.are_met_by(answer)]
    return {
        "requests_per_second": round(len(good) / seconds, 3) if seconds else 0.0,
        "tokens_per_second": _rate(sum(answer.num_tokens for answer in good), seconds),
        "share": round(len(good) / len(answers), 4) if answers else 0.0,
    }
