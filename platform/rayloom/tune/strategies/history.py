"""The history of a search, stored as a journal of events: the only state of searchers and schedulers.

Every decision is a pure function of the history, and the history of a killed search is rebuilt from its journal, so it
continues as if it had not been killed. (Ray Tune's own restore keeps trials and searcher, but the scheduler loses its
rungs and medians.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rayloom.errors import InputError
from rayloom.specs.search.space import Number, Values

Outcome = Literal["finished", "stopped", "failed", "cut_off"]
"""finished: ran all its steps. stopped: ended early by the scheduler. failed: diverged, crashed or had refused values.
cut_off: the budget was used up."""
EventType = Literal["session", "created", "started", "report", "paused", "copied", "exchanged", "crashed", "ended"]
"""paused: the trial released its resources and waits. copied: it took over another's weights. exchanged: the
population exchanged weights at that step."""


@dataclass(frozen=True)
class Event:
    """One line of the journal. Fields that its type does not use keep their defaults."""

    type: EventType
    at_seconds: float
    """Wall time of the search when it happened, summed over all sessions."""
    trial: int = -1
    step: int = 0
    point: dict[str, Number] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    reason: str = ""
    donor: int = -1
    """For `copied`: the trial whose weights at `step` this trial continues from."""

    def as_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        empty = asdict(Event("session", self.at_seconds))
        changed = {key: value for key, value in asdict(self).items() if value != empty[key]}
        return {"type": self.type, "at_seconds": self.at_seconds, **changed}


@dataclass
class Trial:
    """The state of one trial."""

    number: int
    point: dict[str, Number]
    values: Values
    created_at_seconds: float
    reports: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Step and metrics of each measurement, by increasing step; a repeated step replaces the earlier one."""
    is_running: bool = False
    crashes: int = 0
    outcome: Outcome | None = None
    reason: str = ""
    ended_at_seconds: float | None = None
    busy_seconds: float = 0.0
    """Wall time for which it held its resources."""
    copies: list[Event] = field(default_factory=list)
    """The `copied` events: steps at which it took over another trial's weights, and its values from there on."""
    started_at_seconds: float = 0.0
    furthest_step: int = 0
    """The last step at which the scheduler judged it; a resumed trial is not judged again up to this step."""

    @property
    def step(self) -> int:
        """The step of its last measurement; 0 if there is none."""
        return self.reports[-1][0] if self.reports else 0

    @property
    def metrics(self) -> dict[str, float]:
        return self.reports[-1][1] if self.reports else {}

    def value_at(self, step: int, metric: str) -> float | None:
        """The metric in the first measurement at or after a step; None if there is none yet."""
        values = (metrics[metric] for at, metrics in self.reports if at >= step and metric in metrics)
        return next(values, None)


@dataclass
class History:
    """All trials by number, and the wall time so far."""

    trials: dict[int, Trial] = field(default_factory=dict)
    seconds: float = 0.0
    sessions: int = 0
    exchanged_step: int = 0
    """The last step at which the population exchanged weights."""

    def apply(self, event: Event) -> None:
        """Updates the state by one event."""
        self.seconds = max(self.seconds, event.at_seconds)
        if event.type == "session":
            self._begin_session()
        elif event.type == "exchanged":
            self.exchanged_step = event.step
        elif event.type == "created":
            self.trials[event.trial] = Trial(event.trial, event.point, event.values, event.at_seconds)
        else:
            _TRANSITIONS[event.type](self.trials[event.trial], event)

    def _begin_session(self) -> None:
        """Marks all trials as not running. Trials of a killed session are charged until its last event."""
        self.sessions += 1
        for trial in self.trials.values():
            _release(trial, self.seconds)

    @property
    def running(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.is_running]

    @property
    def waiting(self) -> list[Trial]:
        """Trials that are neither running nor ended."""
        return [trial for trial in self.trials.values() if trial.outcome is None and not trial.is_running]

    @property
    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.outcome is not None]

    @property
    def num_steps(self) -> int:
        """Training steps of all trials together, up to the last measurement of each."""
        return sum(trial.step for trial in self.trials.values())


def _release(trial: Trial, seconds: float) -> None:
    if trial.is_running:
        trial.busy_seconds += seconds - trial.started_at_seconds
        trial.is_running = False


def _start(trial: Trial, event: Event) -> None:
    trial.is_running, trial.started_at_seconds = True, event.at_seconds


def _report(trial: Trial, event: Event) -> None:
    trial.reports = [report for report in trial.reports if report[0] < event.step]
    trial.reports.append((event.step, event.metrics))
    trial.furthest_step = max(trial.furthest_step, event.step)


def _wait(trial: Trial, event: Event) -> None:
    _release(trial, event.at_seconds)


def _copy(trial: Trial, event: Event) -> None:
    trial.copies.append(event)
    trial.point, trial.values = event.point, event.values


def _crash(trial: Trial, event: Event) -> None:
    _release(trial, event.at_seconds)
    trial.crashes += 1
    trial.reason = event.reason


def _end(trial: Trial, event: Event) -> None:
    _release(trial, event.at_seconds)
    trial.outcome, trial.reason, trial.ended_at_seconds = event.outcome, event.reason, event.at_seconds


_TRANSITIONS = {
    "started": _start,
    "report": _report,
    "paused": _wait,
    "copied": _copy,
    "crashed": _crash,
    "ended": _end,
}


JOURNAL_NAME = "journal.jsonl"


class Journal:
    """The events on disk. `append` returns after fsync; a truncated last line, as a crash can leave, is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Event]:
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        try:
            return [Event(**json.loads(line)) for line in whole.splitlines()]
        except (ValueError, TypeError) as error:
            fix = "Remove that file to begin the search anew."
            raise InputError(f"The journal of the search is damaged: {error}", where=str(self.path), fix=fix) from None

    def append(self, events: Iterable[Event]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(b"".join(json.dumps(event.as_json()).encode() + b"\n" for event in events))
            file.flush()
            os.fsync(file.fileno())
