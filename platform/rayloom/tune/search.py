"""The state machine of a search: which trial to run next, and what to do with each result.

It does not use Ray. Every decision is a function of the history, and every event is written to the journal before it
has an effect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rayloom.specs.search.refusals import refusals
from rayloom.specs.search.space import Values, values_of
from rayloom.specs.search.strategies import PopulationScheduler
from rayloom.specs.tune import TuneSpec
from rayloom.tune.strategies.history import Event, EventType, History, Journal, Outcome, Trial
from rayloom.tune.strategies.schedulers import copies_at, next_exchange, reason_to_stop, step_to_exchange
from rayloom.tune.strategies.searchers import suggested_point


@dataclass(frozen=True)
class DonorCheckpoint:
    """A checkpoint of another trial."""

    trial: int
    segment: int
    step: int


@dataclass(frozen=True)
class TrialRun:
    """A part of a trial for one process: from its newest checkpoint (or its start) to `until_step` (or its end)."""

    trial: int
    values: Values
    until_step: int | None = None
    """The step at which a member of a population saves a checkpoint and waits for the others."""
    segment: int = 0
    """How often the trial has copied another's weights; each segment has checkpoints of its own."""
    source: DonorCheckpoint | None = None
    """The other trial's checkpoint from which the segment starts."""


class Search:
    """A search. The caller runs what `next_run` returns and reports what happened by the other methods."""

    def __init__(
        self,
        spec: TuneSpec,
        journal: Journal,
        *,
        num_concurrent: int,
        length_of: Callable[[Values], int],
        earlier: Sequence[Trial] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`length_of`: steps of a complete trial with these values. `earlier`: trials of warm-start searches."""
        self.spec, self.history = spec, History()
        self._journal, self._num_concurrent, self._length_of = journal, num_concurrent, length_of
        self._earlier, self._clock = earlier, clock
        for event in journal.read():
            self.history.apply(event)
        self._offset = self.history.seconds - clock()
        self.num_events = 0
        """Events of this session."""
        self._copied: set[tuple[int, int]] = set()
        """Trials that have the checkpoint that they copied in this session, with the number of the copy."""
        self.hindrance: str | None = None
        """The error that stops all trials, whatever their values; after it is fixed the search can be run again."""
        self._note("session")

    # -- what to do ----------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Wall time of the search so far, over all sessions."""
        return self._offset + self._clock()

    def exhausted_budget(self) -> str | None:
        """Which part of the budget is used up, in words; None if none is."""
        budget = self.spec.budget
        if budget.num_steps is not None and self.history.num_steps >= budget.num_steps:
            return f"the budget of {budget.num_steps} steps is used up"
        if budget.seconds is not None and self.seconds >= budget.seconds:
            return f"the budget of {budget.seconds:.0f} s is used up"
        return None

    @property
    def is_over(self) -> bool:
        """Whether no trial runs and none will be started."""
        return not self.history.running and (self.must_end or not self._has_more())

    @property
    def must_end(self) -> bool:
        """Whether no trial may be started any more and running ones should pause."""
        return self.hindrance is not None or self.exhausted_budget() is not None

    def next_run(self) -> TrialRun | None:
        """What a free process should train now; None if it should wait or the search is over."""
        if len(self.history.running) >= self._num_concurrent or self.must_end:
            return None
        if isinstance(self.spec.scheduler, PopulationScheduler):
            self._exchange()
        trial = next(iter(self._ready()), None) or self._new_trial()
        if trial is None:
            return None
        self._note("started", trial)
        return TrialRun(trial.number, trial.values, self._pause_step(trial), len(trial.copies), self._source(trial))

    def _has_more(self) -> bool:
        return bool(self.history.waiting) or len(self.history.trials) < (self.spec.num_trials or 0)

    def _ready(self) -> Iterable[Trial]:
        """Waiting trials that can continue; members of a population wait until all have reached the exchange step."""
        if not isinstance(self.spec.scheduler, PopulationScheduler):
            return self.history.waiting
        interval, exchanged = self.spec.scheduler.interval_steps, self.history.exchanged_step
        donors = self._awaited_donors()
        return [t for t in self.history.waiting if t.step < exchanged + interval and t.number not in donors]

    def _awaited_donors(self) -> set[int]:
        """Members whose checkpoint another one has still to copy: training on, they would replace it.

        One that copies itself trains on in another folder.
        """
        step = self.history.exchanged_step
        copies = {
            trial.number: trial.copies[-1].donor
            for trial in self.history.trials.values()
            if trial.outcome is None and trial.step == step and trial.copies and trial.copies[-1].step == step
        }
        return {
            donor
            for number, donor in copies.items()
            if donor not in copies and (number, len(self.history.trials[number].copies)) not in self._copied
        }

    def _new_trial(self) -> Trial | None:
        """A new trial, or None if `num_trials` exist. A trial whose values the job refuses ends at once as failed."""
        while len(self.history.trials) < (self.spec.num_trials or 0):
            number = len(self.history.trials)
            point = suggested_point(self.spec, self.history, number, self._earlier)
            values = values_of(self.spec.space, point, self.spec.plain_job)
            self._append(Event("created", self.seconds, number, point=point, values=values))
            trial = self.history.trials[number]
            refused = refusals(type(self.spec.job), self.spec.plain_job, values)
            if not refused:
                return trial
            self._note("ended", trial, outcome="failed", reason=f"refused: {refused[0]}")
        return None

    def _pause_step(self, trial: Trial) -> int | None:
        if isinstance(self.spec.scheduler, PopulationScheduler):
            return next_exchange(trial.step, self.spec.scheduler, self._length_of(trial.values))
        return None

    def _source(self, trial: Trial) -> DonorCheckpoint | None:
        if not trial.copies:
            return None
        copy = trial.copies[-1]
        before = [other for other in self.history.trials[copy.donor].copies if other.step < copy.step]
        return DonorCheckpoint(copy.donor, len(before), copy.step)

    def _exchange(self) -> None:
        step = step_to_exchange(self.spec, self.history)
        if step is None:
            return
        events = []
        for copy in copies_at(self.spec, self.history, step):
            values = values_of(self.spec.space, copy.point, self.spec.plain_job)
            events.append(
                Event(
                    "copied", self.seconds, copy.trial, step, point=copy.point, values=values, donor=copy.donor,
                    reason=f"goes on from trial {copy.donor}",
                )
            )  # fmt: skip
        self._append(*events, Event("exchanged", self.seconds, step=step))

    # -- what happened -------------------------------------------------------------------------------------------------

    def copied(self, number: int) -> None:
        """The trial has the checkpoint from which it starts: its donor may train on."""
        self._copied.add((number, len(self.history.trials[number].copies)))

    def measured(self, number: int, step: int, metrics: dict[str, float]) -> bool:
        """Records a measurement; False if the scheduler stops the trial there."""
        trial = self.history.trials[number]
        is_open = trial.furthest_step < step < self._length_of(trial.values)
        self._append(Event("report", self.seconds, number, step, metrics=metrics))
        reason = reason_to_stop(self.spec, self.history, trial, step) if is_open else None
        if reason is not None:
            self._note("ended", trial, outcome="stopped", reason=reason)
        return reason is None

    def paused(self, number: int) -> None:
        """The trial saved a checkpoint and released its resources, at `until_step` or because it was asked to."""
        self._note("paused", self.history.trials[number])

    def finished(self, number: int, step: int, metrics: dict[str, float]) -> None:
        """The trial ran all its steps; `metrics`: those of its final model."""
        self._append(Event("report", self.seconds, number, step, metrics=metrics))
        self._note("ended", self.history.trials[number], outcome="finished")

    def failed(self, number: int, reason: str) -> None:
        """The trial failed for a reason that trying again would not change."""
        self._note("ended", self.history.trials[number], outcome="failed", reason=reason)

    def crashed(self, number: int, reason: str) -> None:
        """The trial's process or node died. It waits to continue from its checkpoint, unless it died too often."""
        trial = self.history.trials[number]
        self._note("crashed", trial, reason=reason)
        if trial.crashes > self.spec.max_crashes_per_trial:
            self.failed(number, f"died {trial.crashes} times: {reason}")

    def hindered(self, number: int, reason: str) -> None:
        """The trial failed for a reason that its values did not cause: a missing file, a full disk, a lost store.

        It waits to be tried again, perhaps on another node. After too many such failures the search ends; if it is run
        again, it starts with this trial.
        """
        trial = self.history.trials[number]
        self._note("crashed", trial, reason=reason)
        if trial.crashes > self.spec.max_crashes_per_trial:
            self.hindrance = f"trial {number}: {reason}"

    def cut_off(self) -> None:
        """Ends the remaining trials if the budget is used up."""
        reason = self.exhausted_budget()
        if reason is not None:
            for trial in [*self.history.running, *self.history.waiting]:
                self._note("ended", trial, outcome="cut_off", reason=reason)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _note(
        self, kind: EventType, trial: Trial | None = None, outcome: Outcome | None = None, reason: str = ""
    ) -> None:
        number = -1 if trial is None else trial.number
        self._append(Event(kind, self.seconds, number, outcome=outcome, reason=reason))

    def _append(self, *events: Event) -> None:
        self._journal.append(events)
        self.num_events += len(events)
        for event in events:
            self.history.apply(event)

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Ray Tune would pickle it into its snapshots, but a search is restored from its journal only."""
        return {}
