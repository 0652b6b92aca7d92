"""A sequence of trainings in an evaluation: the matrix of scores, task by stage, as metrics, table and heat map.

Shapes: T tasks, and as many stages. `scores[i][j]`: of task j after stage i, where larger is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from rayloom.evaluate.checks.check import Results
from rayloom.evaluate.checks.registry import CHECKS
from rayloom.observe.report_page import Section, chart, table
from rayloom.specs.evaluate import EvaluateSpec


@dataclass(frozen=True)
class Continual:
    """Means over tasks. Transfer and forgetting need two stages."""

    average: float
    """Of all tasks after the last stage (Lopez-Paz & Ranzato 2017, arXiv:1706.08840, equation 2)."""
    backward_transfer: float
    """What later stages changed of a task, its own stage to the last; below 0 if it was forgotten (equation 3)."""
    forgetting: float
    """The best of a task before the last stage, less what is left of it (Chaudhry et al. 2018, arXiv:1801.10112,
    equation 3)."""
    forward_transfer: float | None
    """What earlier stages gave a task before its own, over a model that learned none (equation 4); None without
    that."""


def continual(scores: Sequence[Sequence[float]], before: Sequence[float] | None = None) -> Continual:
    """The measures of a matrix (T, T), T at least 2. `before`: (T,) scores of the model before the first stage."""
    last, earlier = scores[-1], range(len(scores) - 1)
    return Continual(
        average=fmean(last),
        backward_transfer=fmean(last[task] - scores[task][task] for task in earlier),
        forgetting=fmean(max(stage[task] for stage in scores[:-1]) - last[task] for task in earlier),
        forward_transfer=None
        if before is None
        else fmean(scores[task][task + 1] - before[task + 1] for task in earlier),
    )


def stage_name(role: str) -> str:
    """What a model is called in tables: `stage 1` for `earlier.0`."""
    return f"stage {int(role.removeprefix('earlier.')) + 1}" if role.startswith("earlier.") else role


def sequence_metrics(spec: EvaluateSpec, results: Results) -> dict[str, Any]:
    """Stages, tasks, `scores` (stage by task), and what `continual` makes of them. Of losses, lower is better."""
    signs = [1 if CHECKS[check.type].is_better_higher else -1 for check in spec.checks]

    def figures(role: str) -> list[float]:
        found = ((check, results[check.name][role].metrics) for check in spec.checks)
        return [float(CHECKS[check.type].figure(metrics)[1]) for check, metrics in found]

    def signed(values: Sequence[float]) -> list[float]:
        return [sign * value for sign, value in zip(signs, values, strict=True)]

    scores = {role: figures(role) for role in spec.compared}
    before = signed(scores["baseline"]) if "baseline" in scores else None
    measured = continual([signed(scores[role]) for role in spec.stages], before)
    return {
        "tasks": [check.name for check in spec.checks],
        "stages": [stage_name(role) for role in scores],
        "scores": [[round(value, 6) for value in row] for row in scores.values()],
        **{name: round(value, 6) for name, value in asdict(measured).items() if value is not None},
    }


def sequence_headline(sequence: Mapping[str, Any]) -> str:
    return f"average {sequence['average']:.3f}, forgetting {sequence['forgetting']:.3f}"


def sequence_sections(sequence: Mapping[str, Any]) -> list[Section]:
    """The report's part: every task after every stage, transfer and forgetting."""
    tasks, rows = sequence["tasks"], list(zip(sequence["stages"], sequence["scores"], strict=True))
    names = ("average", "backward_transfer", "forward_transfer", "forgetting")
    measures = [(name.replace("_", " "), float(sequence[name])) for name in names if name in sequence]
    body = table(("after", *tasks), [(stage, *scores) for stage, scores in rows])
    return [Section("Tasks by stage", body + _heat_map(sequence)), Section("Sequence", table(("", ""), measures))]


def _heat_map(sequence: Mapping[str, Any]) -> str:
    from matplotlib.figure import Figure

    tasks, stages, scores = sequence["tasks"], sequence["stages"], sequence["scores"]
    figure = Figure(figsize=(1.5 + 1.1 * len(tasks), 0.8 + 0.5 * len(stages)))
    axes = figure.subplots()
    axes.imshow(scores, cmap="viridis", aspect="auto")
    middle = (min(map(min, scores)) + max(map(max, scores))) / 2
    for row, of_stage in enumerate(scores):
        for column, value in enumerate(of_stage):
            color = "white" if value < middle else "black"
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_yticks(range(len(stages)), stages)
    return chart(figure)
