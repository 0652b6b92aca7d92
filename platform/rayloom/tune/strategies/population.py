"""Population-based training (Jaderberg et al. 2017): who copies whom, and what the copy tries. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from rayloom.specs.search.space import Number
from rayloom.specs.search.strategies import PopulationScheduler
from rayloom.specs.tune import TuneSpec
from rayloom.tune.strategies.history import History, Trial
from rayloom.tune.strategies.points import drawn_coordinate, generator, perturbed
from rayloom.tune.strategies.schedulers import as_minimised


@dataclass(frozen=True)
class Copy:
    """A member that goes on from the weights and optimiser state that another had at `step`, with another point."""

    trial: int
    donor: int
    step: int
    point: dict[str, Number]


def next_exchange(step: int, scheduler: PopulationScheduler, num_steps: int) -> int | None:
    """Where a member that stands at `step` waits for the others next; None where it runs to its end."""
    boundary = (step // scheduler.interval_steps + 1) * scheduler.interval_steps
    return boundary if boundary < num_steps else None


def step_to_exchange(spec: TuneSpec, history: History) -> int | None:
    """The boundary at which every member still in the race waits, unless they exchanged there already."""
    scheduler = _scheduler(spec)
    members = [trial for trial in history.trials.values() if trial.outcome is None]
    if len(history.trials) < scheduler.num_members or not members or any(trial.is_running for trial in members):
        return None
    step = min(trial.step for trial in members)
    return step if step > history.exchanged_step and step % scheduler.interval_steps == 0 else None


def copies_at(spec: TuneSpec, history: History, step: int) -> list[Copy]:
    """What the members do at a boundary: each of the worst copies one of the best, drawn by the seed."""
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
