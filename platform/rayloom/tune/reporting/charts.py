"""Charts of a search: learning curves, parallel coordinates, importance, and the Pareto front of two objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rayloom.specs.search.space import Listed, LogUniform, Multiple
from rayloom.specs.tune import SearchObjective, TuneSpec
from rayloom.tune.results import shown
from rayloom.tune.strategies.history import Trial

BEST, FINISHED, STOPPED, FAILED = "#c0392b", "#2a6f97", "#b5b5b5", "#e0a030"
_COLOURS = {"finished": FINISHED, "cut_off": FINISHED, "stopped": STOPPED, "failed": FAILED}
_LABELS: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "fontsize": 8, "va": "center", "zorder": 5}
_BEHIND_LABELS = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
MOST_TICK_CHARACTERS = 28
_NAMES = {"finished": "finished", "cut_off": "cut off by the budget", "stopped": "stopped", "failed": "failed"}


def learning_curves(objective: SearchObjective, trials: Sequence[Trial], best: Trial) -> Figure:
    """The metric by step, one line for each trial; the line of a stopped trial ends in a bar."""
    figure = Figure(figsize=(8.5, 4.2))
    axes = figure.add_subplot()
    seen: set[str] = set()
    for trial in sorted(trials, key=lambda t: t.outcome != "stopped"):
        points = [(step, m[objective.metric]) for step, m in trial.reports if _is_number(m.get(objective.metric))]
        if not points:
            continue
        is_best, outcome = trial is best, str(trial.outcome)
        label = f"best: trial {trial.number}" if is_best else _NAMES.get(outcome, outcome)
        axes.plot(
            *zip(*points, strict=True),
            color=BEST if is_best else _COLOURS.get(outcome, STOPPED),
            linewidth=2.2 if is_best else 1.1,
            zorder=3 if is_best else 2,
            marker="o",
            markersize=3,
            label=None if label in seen else label,
        )
        seen.add(label)
        if outcome == "stopped":
            axes.plot(*points[-1], marker="|", markersize=11, color="#777777", zorder=2)
    axes.set_xlabel("step")
    axes.set_ylabel(objective.metric)
    _calm(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def parallel_coordinates(spec: TuneSpec, trials: Sequence[Trial], best: Trial) -> Figure:
    """One axis for each dimension and the first objective, one line for each trial, darker for better objectives."""
    objective = spec.objectives[0]
    shown_trials = [trial for trial in trials if _is_number(trial.metrics.get(objective.metric))]
    axis_names = [*spec.space, objective.metric]
    figure = Figure(figsize=(max(6.0, 2.1 * len(axis_names)), 4.4))
    axes = figure.add_subplot()
    places = {name: _axis(spec, name, shown_trials) for name in axis_names}
    order = sorted(shown_trials, key=lambda t: objective.sign * t.metrics[objective.metric], reverse=True)
    for rank, trial in enumerate(order):
        heights = [places[name][0][trial.number] for name in axis_names]
        is_best = trial is best
        shade = 0.35 + 0.55 * rank / max(1, len(order) - 1)
        is_whole = trial.outcome in ("finished", "cut_off")
        axes.plot(
            range(len(axis_names)),
            heights,
            color=BEST if is_best else FINISHED if is_whole else STOPPED,
            alpha=1.0 if is_best or not is_whole else shade,
            linewidth=2.4 if is_best else 1.3,
            linestyle="-" if is_whole else (0, (4, 2)),
            zorder=3 if is_best else 2,
        )
    for index, name in enumerate(axis_names):
        axes.axvline(index, color="#444444", linewidth=0.8)
        for height, text in places[name][1]:
            axes.annotate(text, (index, height), bbox=_BEHIND_LABELS, **_LABELS)
    axes.set_xticks(range(len(axis_names)), axis_names, fontsize=9)
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(axis_names) - 0.55)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def importance_bars(importances: Mapping[str, float]) -> Figure:
    """A bar for each dimension: the share of the variance that it explains."""
    figure = Figure(figsize=(7.0, 0.6 + 0.42 * len(importances)))
    axes = figure.add_subplot()
    names = list(importances)[::-1]
    bars = axes.barh(names, [importances[name] for name in names], color=FINISHED, height=0.6)
    axes.bar_label(bars, [f"{importances[name]:.0%}" for name in names], padding=4, fontsize=9)
    axes.set_xlim(0, 1.08)
    axes.set_xticks([])
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


def pareto_front(objectives: Sequence[SearchObjective], trials: Sequence[Trial], front: Sequence[Trial]) -> Figure:
    """Both objectives of every measured trial, and a line through the Pareto front."""
    first, second = (objective.metric for objective in objectives)
    figure = Figure(figsize=(6.5, 4.4))
    axes = figure.add_subplot()
    numbers = {trial.number for trial in front}
    for trial in trials:
        if _is_number(trial.metrics.get(first)) and _is_number(trial.metrics.get(second)):
            is_front = trial.number in numbers
            point = (trial.metrics[second], trial.metrics[first])
            axes.scatter(*point, color=BEST if is_front else STOPPED, s=42 if is_front else 24, zorder=3)
            if is_front:
                axes.annotate(str(trial.number), point, xytext=(6, 5), textcoords="offset points", fontsize=9)
    line = sorted((trial.metrics[second], trial.metrics[first]) for trial in front)
    axes.plot(*zip(*line, strict=True), color=BEST, linewidth=1.2, zorder=2, drawstyle="steps-post")
    axes.set_xlabel(second)
    axes.set_ylabel(first)
    _calm(axes)
    return figure


Axis = tuple[dict[int, float], list[tuple[float, str]]]


def _axis(spec: TuneSpec, name: str, trials: Sequence[Trial]) -> Axis:
    """One axis: the height (0 to 1) of each trial, and its tick labels with their heights."""
    if name not in spec.space:
        values = {trial.number: float(trial.metrics[name]) for trial in trials}
        return _numeric(values, is_log=False, digits=4)
    dimension: Any = spec.space[name]
    if isinstance(dimension, Listed | Multiple):
        values_by_trial = {trial.number: trial.values[name] for trial in trials}
        if not all(_is_number(value) for value in values_by_trial.values()):
            return _named(values_by_trial)
    values = {trial.number: float(trial.values[name]) for trial in trials}
    return _numeric(values, is_log=isinstance(dimension, LogUniform), digits=3)


def _numeric(values: Mapping[int, float], is_log: bool, digits: int) -> Axis:
    moved = {number: math.log(value) if is_log else value for number, value in values.items()}
    low, high = min(moved.values()), max(moved.values())
    span = (high - low) or 1.0
    heights = {number: (value - low) / span for number, value in moved.items()}
    ticks = sorted(set(values.values()))
    if len(ticks) > 6:
        ends = (ticks[0], ticks[-1])
        middle = math.sqrt(ends[0] * ends[1]) if is_log else (ends[0] + ends[1]) / 2
        ticks = [ends[0], middle, ends[1]]
    labels = [(((math.log(tick) if is_log else tick) - low) / span, f"{tick:.{digits}g}") for tick in ticks]
    return heights, labels


def _named(values: Mapping[int, Any]) -> Axis:
    names = list(dict.fromkeys(shown(value) for value in values.values()))
    step = 1 / max(1, len(names) - 1)
    ticks = [(number * step, _short(name)) for number, name in enumerate(names)]
    return {number: names.index(shown(value)) * step for number, value in values.items()}, ticks


def _short(text: str) -> str:
    """A value's text as a tick label: one line, and no formula of matplotlib's."""
    line = text.replace("\n", r"\n").replace("$", r"\$")
    return line if len(line) <= MOST_TICK_CHARACTERS else f"{line[: MOST_TICK_CHARACTERS - 1]}…"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _calm(axes: Axes) -> None:
    axes.grid(color="#e8e8e8", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
