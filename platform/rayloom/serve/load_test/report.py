"""A load's result as one HTML page: figures, and when each answer's first token and end came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rayloom.observe.report_page import Section, chart, page, table

if TYPE_CHECKING:
    from rayloom.serve.load_test.clients import MeasuredAnswer

TIMES = {
    "time_to_first_token": "time to first token",
    "time_per_output_token": "time per output token",
    "latency": "whole answer",
}
"""Measured times by their key, as people read them."""


def rendered(result: dict[str, Any], answers: Sequence[MeasuredAnswer]) -> str:
    """`result`: as `rayloom bench --json` prints it."""
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
