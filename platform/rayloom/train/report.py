"""The report's sections on a training run: results, loss curve, metrics."""

from __future__ import annotations

from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.observe.report_page import Section, chart, metric_rows, table
from rayloom.train.loop.run_log import read_log
from rayloom.train.reporting.rollout_sections import rollout_sections

SMOOTHING = 0.9
MAX_POINTS = 2000


def sections(artifact: Artifact) -> list[Section]:
    """What was learned (losses, or a policy's rewards), skipped steps, and all metrics of the run."""
    metrics = artifact.manifest.metrics
    events = list(read_log(artifact.path / "metrics.jsonl"))
    is_policy = any(event["event"] == "rollout" for event in events)
    made = rollout_sections(metrics, events) if is_policy else _loss_sections(metrics, events)
    bad = [(e["step"], e["loss"], e["decision"]) for e in events if e["event"] == "bad_step"]
    if bad:
        made.append(Section("Steps that were not applied", table(("step", "loss", "decision"), bad)))
    if prompts := metrics.get("prompts"):
        made.append(Section("First prompts", table(("row", "prompt"), list(enumerate(prompts, 1)))))
    shown = {name: value for name, value in metrics.items() if name not in ("heldout", "baselines", "prompts")}
    made.append(Section("Run", table(("", ""), metric_rows(shown))))
    return made


def _loss_sections(metrics: dict[str, Any], events: list[dict[str, Any]]) -> list[Section]:
    """Held-out losses, n-gram baselines and the loss curve."""
    measures = _measures(metrics)
    made = [Section("Held-out loss", table(("rows", "before", "after", *measures, "labels"), _heldout(metrics)))]
    if metrics.get("baselines"):
        rows = [(name, value) for name, value in metrics["baselines"].items()]
        made.append(Section("Counting alone, on the same tokens", table(("model", "perplexity"), rows)))
    if any(event["event"] == "step" for event in events):
        made.append(Section("Loss by step", _curve(events, "token" if "perplexity" in measures else "label")))
    return made


def _heldout(metrics: dict[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name, measured in metrics["heldout"].items():
        after = measured["after"]
        measures = (after[measure] for measure in _measures(metrics))
        rows.append((name, measured["before"]["loss"], after["loss"], *measures, measured["labels"]))
    return rows


def _measures(metrics: dict[str, Any]) -> tuple[str, ...]:
    """Columns besides the loss: accuracy and score of a task, else perplexity."""
    measured = [names["after"] for names in metrics["heldout"].values()]
    names = tuple(measure for measure in ("accuracy", "score") if all(measure in after for after in measured))
    return names or ("perplexity",)


def _curve(events: list[dict[str, Any]], unit: str) -> str:
    from matplotlib.figure import Figure

    steps = [event for event in events if event["event"] == "step"]
    every = max(1, len(steps) // MAX_POINTS)
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    axes.plot([e["step"] for e in steps[::every]], [e["loss"] for e in steps[::every]], color="0.8", linewidth=0.8)
    axes.plot([e["step"] for e in steps[::every]], _smoothed(steps)[::every], label="training, smoothed")
    for name in dict.fromkeys(event["name"] for event in events if event["event"] == "heldout"):
        measured = [event for event in events if event["event"] == "heldout" and event["name"] == name]
        axes.plot([e["step"] for e in measured], [e["loss"] for e in measured], "o-", markersize=4, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel(f"nats per {unit}")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    return chart(figure)


def _smoothed(steps: list[dict[str, Any]]) -> list[float]:
    smoothed: list[float] = []
    for event in steps:
        before = smoothed[-1] if smoothed else event["loss"]
        smoothed.append(SMOOTHING * before + (1 - SMOOTHING) * event["loss"])
    return smoothed
