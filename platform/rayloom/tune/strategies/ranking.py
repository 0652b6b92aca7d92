"""Which trials are best: by one objective, or the front of two. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rayloom.specs.tune import TuneSpec
from rayloom.tune.strategies.history import Trial
from rayloom.tune.strategies.schedulers import as_minimised

_OUTCOME_ORDER = {"finished": 0, "cut_off": 1, None: 1, "stopped": 2, "failed": 3}


def ranked(spec: TuneSpec, trials: Iterable[Trial]) -> list[Trial]:
    """Best first. What ran to its end comes before what was cut off, and that before what was stopped.

    Values of unequal steps say little against each other: among unfinished trials those that came further are first.
    """

    def key(trial: Trial) -> tuple[float, ...]:
        place = _OUTCOME_ORDER[trial.outcome]
        return (place, -trial.step if place else 0, *scores(spec, trial), trial.number)

    return sorted(trials, key=key)


def scores(spec: TuneSpec, trial: Trial) -> tuple[float, ...]:
    """The objectives' last values so that smaller is better."""
    return tuple(as_minimised(trial.metrics.get(objective.metric), objective) for objective in spec.objectives)


def candidates(trials: Iterable[Trial]) -> list[Trial]:
    """The trials whose result can be handed on: finished ones, else those that the budget cut off while they ran."""
    known = list(trials)
    finished = [trial for trial in known if trial.outcome == "finished"]
    return finished or [trial for trial in known if trial.outcome == "cut_off" and trial.step > 0]


def best(spec: TuneSpec, trials: Iterable[Trial]) -> Trial | None:
    """The trial whose result is handed on; None where there is none."""
    return next(iter(ranked(spec, candidates(trials))), None)


def front(spec: TuneSpec, trials: Iterable[Trial]) -> list[Trial]:
    """The candidates than which no other is better in one objective and no worse in the other, best first."""
    found = candidates(trials)
    chosen = pareto_indices([scores(spec, trial) for trial in found])
    return ranked(spec, [found[index] for index in chosen])


def pareto_indices(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other dominates; smaller is better. Equal points are all kept."""
    return [i for i, point in enumerate(points) if not any(_dominates(other, point) for other in points)]


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))
