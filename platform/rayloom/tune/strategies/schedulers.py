"""Schedulers: when to stop a trial early, and the exchanges of population-based training. Pure functions of history.

Values are multiplied by the objective's sign, so that smaller is always better; NaN is worst.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from rayloom.specs.search.space import Number
from rayloom.specs.search.strategies import AshaScheduler, HyperbandScheduler, MedianScheduler, PopulationScheduler
from rayloom.specs.tune import SearchObjective, TuneSpec
from rayloom.tune.strategies.history import History, Trial
from rayloom.tune.strategies.points import drawn_coordinate, generator, perturbed


def reason_to_stop(spec: TuneSpec, history: History, trial: Trial, step: int) -> str | None:
    """Why a trial that was just measured at `step` should be stopped; None if it continues."""
    scheduler, objective = spec.scheduler, spec.objectives[0]
    grace = grace_steps(spec)
    if step < grace:
        return None
    if isinstance(scheduler, AshaScheduler):
        return _successive_halving(history.trials.values(), trial, step, objective, grace, scheduler.reduction_factor)
    if isinstance(scheduler, HyperbandScheduler):
        brackets = bracket_order(scheduler)
        bracket = brackets[trial.number % len(brackets)]
        others = [t for t in history.trials.values() if brackets[t.number % len(brackets)] == bracket]
        first = grace * scheduler.reduction_factor**bracket
        return _successive_halving(others, trial, step, objective, first, scheduler.reduction_factor)
    if isinstance(scheduler, MedianScheduler):
        return _median_rule(history, trial, step, objective, scheduler.min_trials)
    return None


def grace_steps(spec: TuneSpec) -> int:
    """The steps that every trial runs before it can be stopped."""
    return getattr(spec.scheduler, "grace_steps", None) or spec.train.evaluate_every_steps or 1


def rung_of(previous_step: int, step: int, grace: int, factor: int) -> int | None:
    """The last rung (grace × factor^k) in (previous_step, step], or None."""
    milestone, rung = grace, None
    while milestone <= step:
        rung = milestone if milestone > previous_step else rung
        milestone *= factor
    return rung


def bracket_order(scheduler: HyperbandScheduler) -> list[int]:
    """The bracket of each trial of a round, interleaved: with two brackets and factor 3, 0 1 0 1 0.

    Of B brackets, bracket b gets ceil(B / (s + 1) × factor^s) trials of a round, s = B − 1 − b (Li et al. 2018,
    algorithm 1, with s_max = B − 1).
    """
    brackets, factor = scheduler.num_brackets, scheduler.reduction_factor
    positions: list[tuple[float, int]] = []
    for bracket in range(brackets):
        s = brackets - 1 - bracket
        count = math.ceil(brackets / (s + 1) * factor**s)
        positions += [((index + 0.5) / count, bracket) for index in range(count)]
    return [bracket for _, bracket in sorted(positions)]


def as_minimised(value: float | None, objective: SearchObjective) -> float:
    """The value with the objective's sign, so that smaller is better; infinite if it is missing or NaN."""
    return math.inf if value is None or math.isnan(value) else objective.sign * value


def _successive_halving(
    others: Iterable[Trial], trial: Trial, step: int, objective: SearchObjective, first: int, factor: int
) -> str | None:
    rung = rung_of(trial.reports[-2][0] if len(trial.reports) > 1 else 0, step, first, factor)
    if rung is None:
        return None
    value = as_minimised(trial.value_at(rung, objective.metric), objective)
    arrived = [other for other in others if other.step >= rung]
    better = sum(as_minimised(other.value_at(rung, objective.metric), objective) < value for other in arrived)
    kept = math.ceil(len(arrived) / factor)
    if better < kept and value < math.inf:
        return None
    shown = trial.value_at(rung, objective.metric)
    return f"{objective.metric} {shown:.4g} at step {rung}: rank {better + 1} of {len(arrived)}, best {kept} kept"


def _median_rule(history: History, trial: Trial, step: int, objective: SearchObjective, min_trials: int) -> str | None:
    others = [t for t in history.trials.values() if t is not trial and t.step >= step]
    if len(others) < min_trials:
        return None
    means = [statistics.fmean(_values_until(other, step, objective)) for other in others]
    best = min(_values_until(trial, step, objective))
    median = statistics.median(means)
    if best <= median:
        return None
    shown = objective.sign * median
    return f"{objective.metric} {objective.sign * best:.4g}, median of {len(others)} others {shown:.4g}, at step {step}"


def _values_until(trial: Trial, step: int, objective: SearchObjective) -> list[float]:
    return [as_minimised(metrics.get(objective.metric), objective) for at, metrics in trial.reports if at <= step]


# Population-based training (Jaderberg et al. 2017): which members copy which, and with what new point.


@dataclass(frozen=True)
class Copy:
    """A member that continues from another's weights and optimiser state at `step`, with a new point."""

    trial: int
    donor: int
    step: int
    point: dict[str, Number]


def next_exchange(step: int, scheduler: PopulationScheduler, num_steps: int) -> int | None:
    """The next exchange step of a member at `step`; None if it runs to its end without one."""
    boundary = (step // scheduler.interval_steps + 1) * scheduler.interval_steps
    return boundary if boundary < num_steps else None


def step_to_exchange(spec: TuneSpec, history: History) -> int | None:
    """The exchange step at which all members that have not ended wait; None if there is none or it is done."""
    scheduler = _scheduler(spec)
    members = [trial for trial in history.trials.values() if trial.outcome is None]
    if len(history.trials) < scheduler.num_members or not members or any(trial.is_running for trial in members):
        return None
    step = min(trial.step for trial in members)
    return step if step > history.exchanged_step and step % scheduler.interval_steps == 0 else None


def copies_at(spec: TuneSpec, history: History, step: int) -> list[Copy]:
    """The copies at an exchange step: each of the worst members copies one of the best, drawn by the seed."""
    scheduler, objective = _scheduler(spec), spec.objectives[0]
    members = [trial for trial in history.trials.values() if trial.outcome is None and trial.step == step]
    ranked = sorted(members, key=lambda t: (as_minimised(t.value_at(step, objective.metric), objective), t.number))
    count = max(1, int(len(ranked) * scheduler.exchanged_share)) if len(ranked) > 1 else 0
    return [_copy(spec, scheduler, trial, ranked[:count], step) for trial in ranked[len(ranked) - count :]]


def _copy(spec: TuneSpec, scheduler: PopulationScheduler, trial: Trial, best: list[Trial], step: int) -> Copy:
    draw = generator(spec.seed, "exchange", step, trial.number)
    donor = draw.choice(best)
    point = {}
    for path, dimension in spec.space.items():
        if draw.random() < scheduler.resample_probability:
            point[path] = drawn_coordinate(dimension, draw)
        else:
            point[path] = perturbed(dimension, donor.point[path], scheduler.factors, draw)
    return Copy(trial.number, donor.number, step, point)


def _scheduler(spec: TuneSpec) -> PopulationScheduler:
    assert isinstance(spec.scheduler, PopulationScheduler)
    return spec.scheduler
