"""Ranking of trials by the first objective, and the Pareto front of two. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rayloom.specs.search.space import ModelChoice
from rayloom.specs.tune import TuneSpec
from rayloom.tune.strategies.history import Trial
from rayloom.tune.strategies.schedulers import as_minimised

_OUTCOME_ORDER = {"finished": 0, "cut_off": 1, None: 1, "stopped": 2, "failed": 3}


def ranked(spec: TuneSpec, trials: Iterable[Trial]) -> list[Trial]:
    """The trials, best first: finished ones before those cut off, and these before stopped ones.

    Values at different steps are hard to compare, so unfinished trials with more steps come first.
    """

    def key(trial: Trial) -> tuple[float, ...]:
        rank = _OUTCOME_ORDER[trial.outcome]
        return (rank, -trial.step if rank else 0, *scores(spec, trial), trial.number)

    return sorted(trials, key=key)


def scores(spec: TuneSpec, trial: Trial) -> tuple[float, ...]:
    """The last value of each objective, with its sign changed if larger is better, so that smaller is better."""
    return tuple(as_minimised(trial.metrics.get(objective.metric), objective) for objective in spec.objectives)


def candidates(trials: Iterable[Trial]) -> list[Trial]:
    """The trials whose model can be published: finished ones, otherwise those cut off by the budget."""
    known = list(trials)
    finished = [trial for trial in known if trial.outcome == "finished"]
    return finished or [trial for trial in known if trial.outcome == "cut_off" and trial.step > 0]


def best(spec: TuneSpec, trials: Iterable[Trial]) -> Trial | None:
    """The trial whose model is published; None if there is none."""
    return next(iter(ranked(spec, candidates(trials))), None)


def best_by_model(spec: TuneSpec, trials: Iterable[Trial]) -> list[Trial]:
    """The best finished trial with each model, of a search that chooses between models; else the best alone."""
    paths = [path for path, dimension in spec.space.items() if isinstance(dimension, ModelChoice)]
    first: dict[tuple[object, ...], Trial] = {}
    for trial in ranked(spec, [trial for trial in trials if trial.outcome == "finished"]):
        first.setdefault(tuple(trial.values[path] for path in paths), trial)
    return list(first.values())


def front(spec: TuneSpec, trials: Iterable[Trial]) -> list[Trial]:
    """The Pareto front of the candidates, best by the first objective first."""
    contenders = candidates(trials)
    chosen = pareto_indices([scores(spec, trial) for trial in contenders])
    return ranked(spec, [contenders[index] for index in chosen])


def pareto_indices(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other dominates; smaller is better. All of several equal points are kept."""
    return [i for i, point in enumerate(points) if not any(_dominates(other, point) for other in points)]


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))
