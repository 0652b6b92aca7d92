"""A checked service's part of the report: what it answered, how it grew, and how fast it was."""

from __future__ import annotations

import json
from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.observe.report_page import Section, chart, table, text
from rayloom.serve.load_test.report import TIMES


def sections(artifact: Artifact) -> list[Section]:
    metrics = artifact.manifest.metrics
    shown = [Section("Start", text(f"The service answered {metrics['seconds_to_start']} s after it was asked for."))]
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
