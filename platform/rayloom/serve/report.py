"""Reports on a service: the sections about its check (answers, replicas over time, speed), and a load test's page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rayloom.artifacts.store import Artifact
from rayloom.observe.report_page import Section, chart, page, table, text
from rayloom.serve.replicas.start_times import StartTimes

if TYPE_CHECKING:
    from rayloom.serve.load_test.clients import MeasuredAnswer


def sections(artifact: Artifact) -> list[Section]:
    metrics = artifact.manifest.metrics
    shown = [Section("Start", text(f"The service answered {metrics['seconds_to_start']} s after it was asked for."))]
    started = {model: StartTimes(**times) for model, times in metrics.get("start_seconds", {}).items() if times}
    if started:
        rows = [(model, str(times)) for model, times in started.items()]
        shown.append(Section("Phases of the start", table(("model", "its first replica"), rows)))
    if metrics.get("predictors"):
        rows = [(name, json.dumps(one, ensure_ascii=False)) for name, one in metrics["predictors"].items()]
        shown.append(Section("Predictors", table(("asked with an example", "answered"), rows)))
    if "answer" in metrics:
        answer = metrics["answer"]
        shown.append(Section("Answer", table(("asked", "answered"), [(answer["prompt"], answer["answer"])])))
    if "load" in metrics:
        shown += _load_sections(metrics["load"], metrics["replicas_over_time"])
    return shown


def _load_sections(load: dict[str, Any], replicas: list[list[float]]) -> list[Section]:
    facts = [
        ("requests", load["num_requests"]),
        ("failed", load["num_failed"]),
        ("seconds", load["seconds"]),
        ("tokens/s", load["tokens_per_second"]),
        ("requests/s", load["requests_per_second"]),
    ]
    times = [
        (name, *(load[key][part] for part in ("p50", "p90", "p99", "max"))) for key, name in TIMES.items() if load[key]
    ]
    by_replica = list(load["requests_by_replica"].items())
    body = table(("what", "value"), facts) + table(("seconds", "p50", "p90", "p99", "longest"), times)
    return [
        Section("Under load", body),
        Section("Replicas", table(("replica", "requests"), by_replica) + _replicas_chart(replicas)),
    ]


def _replicas_chart(replicas: list[list[float]]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.2))
    axes = figure.subplots()
    axes.step([seconds for seconds, _ in replicas], [count for _, count in replicas], where="post")
    axes.set(
        xlabel="seconds of load", ylabel="replicas", ylim=(0, max((count for _, count in replicas), default=1) + 1)
    )
    return chart(figure)


# The result of a load test as one HTML page: statistics, and a chart of each answer's first token and end.

TIMES = {
    "time_to_first_token": "time to first token",
    "time_per_output_token": "time per output token",
    "latency": "whole answer",
}
"""Labels of the measured times, by key."""


def rendered(result: dict[str, Any], answers: Sequence[MeasuredAnswer]) -> str:
    """The HTML page. `result`: what `rayloom bench --json` prints."""
    load = result["load"]
    facts = [
        ("endpoint", result["url"]),
        ("model", result["model"]),
        ("load", load),
        ("requests", result["num_requests"]),
        ("failed", result["num_failed"]),
        ("seconds", result["seconds"]),
        ("tokens/s", result["tokens_per_second"]),
        ("requests/s", result["requests_per_second"]),
        ("good answers/s", result["goodput"]["requests_per_second"]),
        ("good answers", f"{result['goodput']['share']:.1%}"),
    ]
    parts = ("p50", "p90", "p99", "max")
    times = [(name, *(result[key][part] for part in parts)) for key, name in TIMES.items() if result[key]]
    sections = [
        Section("Result", table(("what", "value"), facts)),
        Section("Seconds", table(("seconds", "p50", "p90", "p99", "longest"), times)),
        Section("Over the run", _over_time(answers)),
    ]
    if result["errors"]:
        sections.append(Section("Errors", table(("error", "requests"), list(result["errors"].items()))))
    return page(f"{result['model']} under load", load, sections)


def _over_time(answers: Sequence[MeasuredAnswer]) -> str:
    from matplotlib.figure import Figure

    whole = [answer for answer in answers if answer.is_whole]
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots()
    began = [answer.started_seconds for answer in whole]
    axes.plot(began, [answer.total_seconds for answer in whole], ".", label="whole answer")
    axes.plot(began, [answer.first_token_seconds or 0.0 for answer in whole], ".", label="first token")
    axes.set(xlabel="second at which the request was sent", ylabel="seconds", ylim=(0, None))
    if whole:
        axes.legend()
    return chart(figure)
