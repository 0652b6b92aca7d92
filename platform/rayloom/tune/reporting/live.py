"""Progress of a running search: a live table of trials on a terminal, otherwise a line for each trial that ends."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rayloom.observe.progress import console, say
from rayloom.specs.tune import TuneSpec
from rayloom.tune.results import shown
from rayloom.tune.strategies.history import History, Trial
from rayloom.tune.strategies.ranking import ranked

MOST_ROWS = 20
SECONDS_BETWEEN_DRAWINGS = 0.5


class LiveTable:
    """A table of a search's history; call `show` to update it."""

    def __init__(self, spec: TuneSpec, history: History, output: Console | None = None) -> None:
        self._spec, self._history, self._console = spec, history, output or console()
        self._ended = len(history.ended)
        self._drawn_at = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def show(self) -> None:
        if self._live is None:
            self._say_ends()
        elif time.monotonic() - self._drawn_at >= SECONDS_BETWEEN_DRAWINGS:
            self._drawn_at = time.monotonic()
            self._live.update(table_of(self._spec, self._history), refresh=True)

    def _say_ends(self) -> None:
        ended = sorted(self._history.ended, key=lambda trial: trial.ended_at_seconds or 0.0)
        for trial in ended[self._ended :]:
            reason = f": {trial.reason}" if trial.reason and trial.outcome != "finished" else ""
            of = self._spec.num_trials or len(self._history.trials)
            metric = self._spec.objectives[0].metric
            value = _number(trial.metrics.get(metric))
            say(f"trial {trial.number} of {of} {_state(trial)}, {metric} {value}, {_values(trial)}{reason}")
        self._ended = len(ended)


def table_of(spec: TuneSpec, history: History) -> Table:
    """A table of the running trials, then the best; a last line counts those that do not fit."""
    trials = [*history.running, *(t for t in ranked(spec, history.trials.values()) if not t.is_running)]
    running, ended = len(history.running), len(history.ended)
    title = f"{spec.name}: {ended} of {spec.num_trials} trials ended, {running} running, {history.num_steps} steps"
    metrics = [objective.metric for objective in spec.objectives]
    table = Table("trial", *spec.space, "step", *metrics, "", title=title, title_justify="left")
    for trial in trials[:MOST_ROWS]:
        values = [shown(trial.values.get(path, "")) for path in spec.space]
        measured = [_number(trial.metrics.get(metric)) for metric in metrics]
        table.add_row(str(trial.number), *values, str(trial.step), *measured, _state(trial))
    if len(trials) > MOST_ROWS:
        table.caption = f"and {len(trials) - MOST_ROWS} more"
    return table


def _state(trial: Trial) -> str:
    if trial.outcome is not None:
        return trial.outcome.replace("_", " ")
    return "running" if trial.is_running else "waiting"


def _values(trial: Trial) -> str:
    return ", ".join(f"{path} {shown(value)}" for path, value in trial.values.items())


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.5g}"
