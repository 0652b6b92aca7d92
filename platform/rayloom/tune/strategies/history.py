"""What happened in a search, as events that are kept line by line: the one memory of searchers and schedulers.

Every decision is a pure function of the history, and the history of a killed search is read back from its journal; so
a search goes on as if it had not been killed. (Ray's own restore keeps trials and searcher, but starts the scheduler
anew: its rungs and medians are lost.)
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
"""finished: it ran to its own end. stopped: the scheduler saw no hope. failed: it diverged, crashed or was refused.
cut_off: the budget ended."""
EventType = Literal["session", "created", "started", "report", "paused", "copied", "exchanged", "crashed", "ended"]
"""left: it gave its resources back and waits. exchanged: the population did so at that step."""


@dataclass(frozen=True)
class Event:
    """One line of the journal. What does not belong to its type stays at its default."""

    type: EventType
    at_seconds: float
    """Wall time of the search so far, over all its sessions."""
    trial: int = -1
    step: int = 0
    point: dict[str, Number] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    reason: str = ""
    donor: int = -1
    """Of `copied`: the trial whose weights, as they were at `step`, the trial goes on from."""

    def as_json(self) -> dict[str, Any]:
        """Without what stands at its default."""
        empty = asdict(Event("session", self.at_seconds))
        said = {key: value for key, value in asdict(self).items() if value != empty[key]}
        return {"type": self.type, "at_seconds": self.at_seconds, **said}


@dataclass
class Trial:
    """One trial so far."""

    number: int
    point: dict[str, Number]
    values: Values
    created_at_seconds: float
    reports: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Step and metrics of each measurement, steps rising; one that was measured again replaces the first."""
    is_running: bool = False
    crashes: int = 0
    outcome: Outcome | None = None
    reason: str = ""
    ended_at_seconds: float | None = None
    busy_seconds: float = 0.0
    """Wall time in which it held its resources."""
    copies: list[Event] = field(default_factory=list)
    """Where it went on from another trial's weights, with the values from there on."""
    started_at_seconds: float = 0.0
    furthest_step: int = 0
    """The last step at which a decision on it was made; one that resumes passes such steps again, undecided."""

    @property
    def step(self) -> int:
        """The last step at which it was measured; 0 before the first."""
        return self.reports[-1][0] if self.reports else 0

    @property
    def metrics(self) -> dict[str, float]:
        return self.reports[-1][1] if self.reports else {}

    def value_at(self, step: int, metric: str) -> float | None:
        """The metric at the first measurement at or after a step; None where it came not so far."""
        found = (metrics[metric] for at, metrics in self.reports if at >= step and metric in metrics)
        return next(found, None)


@dataclass
class History:
    """All trials by number, and the wall time so far."""

    trials: dict[int, Trial] = field(default_factory=dict)
    seconds: float = 0.0
    sessions: int = 0
    exchanged_step: int = 0
    """The last step at which the population exchanged weights."""

    def apply(self, event: Event) -> None:
        """Takes one event in."""
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
        """Nothing runs at first: what ran in a session that was killed counts as time spent up to its last event."""
        self.sessions += 1
        for trial in self.trials.values():
            _release(trial, self.seconds)

    @property
    def running(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.is_running]

    @property
    def waiting(self) -> list[Trial]:
        """Neither running nor ended: to be gone on with."""
        return [trial for trial in self.trials.values() if trial.outcome is None and not trial.is_running]

    @property
    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.outcome is not None]

    @property
    def num_steps(self) -> int:
        """Training steps of all trials together, as far as they were measured."""
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


class Journal:
    """The events on disk. Each is safe from a power cut when `append` returns; a line cut short by one is dropped."""

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
