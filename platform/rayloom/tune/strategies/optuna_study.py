"""Optuna studies built from the trials of a search, to propose the next point or to compute importances."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from rayloom.specs.search.space import Integer, Listed, LogUniform, Multiple, Number, num_values
from rayloom.specs.search.strategies import GaussianProcessSearcher
from rayloom.specs.tune import TuneSpec
from rayloom.tune.strategies.history import Trial
from rayloom.tune.strategies.points import is_ordered, rounded_into_range
from rayloom.tune.strategies.schedulers import as_minimised

MIN_TRIALS_FOR_IMPORTANCE = 4

optuna.logging.set_verbosity(optuna.logging.ERROR)


def proposed(spec: TuneSpec, known: Sequence[FrozenTrial], seed: int) -> dict[str, Number]:
    """The point that the searcher's sampler proposes after these trials."""
    study = optuna.create_study(sampler=_sampler(spec, seed), directions=["minimize"] * len(spec.objectives))
    study.add_trials(known)
    params = study.ask(fixed_distributions=_distributions(spec)).params
    return {path: rounded_into_range(dimension, params.get(path, 0)) for path, dimension in spec.space.items()}


def as_study_trials(spec: TuneSpec, trials: Sequence[Trial]) -> list[FrozenTrial]:
    """The trials as Optuna's: with their values, as pruned if stopped, with the worst measured values if failed."""
    worst = _worst_values(spec, trials)
    return [_known(spec, trial, worst) for trial in trials]


def measured_at(spec: TuneSpec, trials: Sequence[Trial], step: int) -> list[FrozenTrial]:
    """The trials that reached `step`, with the first objective's value there."""
    objective = spec.objectives[0]
    values = [as_minimised(trial.value_at(step, objective.metric), objective) for trial in trials]
    pairs = [(trial, value) for trial, value in zip(trials, values, strict=True) if math.isfinite(value)]
    return [_frozen(spec, trial.point, TrialState.COMPLETE, [value]) for trial, value in pairs]


def importances(spec: TuneSpec, trials: Sequence[Trial], step: int) -> dict[str, float]:
    """The share of the variance at `step` that each dimension explains (fANOVA, Hutter et al. 2014), largest first.

    Empty if too few trials reached the step, if they do not differ, or if scikit-learn is not installed.
    """
    known = measured_at(spec, trials, step)
    values = {trial.value for trial in known}
    if len(known) < MIN_TRIALS_FOR_IMPORTANCE or len(values) < 2 or importlib.util.find_spec("sklearn") is None:
        return {}
    study = optuna.create_study(direction="minimize")
    study.add_trials(known)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=spec.seed)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {path: float(share) for path, share in shares.items()}


def _sampler(spec: TuneSpec, seed: int) -> BaseSampler:
    if isinstance(spec.searcher, GaussianProcessSearcher):
        return GPSampler(seed=seed, n_startup_trials=1)
    return TPESampler(seed=seed, n_startup_trials=1, multivariate=True, constant_liar=True)


def _distributions(spec: TuneSpec) -> dict[str, BaseDistribution]:
    distributions = {path: _distribution(dimension) for path, dimension in spec.space.items()}
    return {path: distribution for path, distribution in distributions.items() if not distribution.single()}


def _distribution(dimension: Any) -> BaseDistribution:
    if isinstance(dimension, Listed | Multiple):
        indices = range(num_values(dimension))
        return IntDistribution(0, len(indices) - 1) if is_ordered(dimension) else CategoricalDistribution(indices)
    if isinstance(dimension, Integer):
        return IntDistribution(dimension.low, dimension.high, step=dimension.step)
    return FloatDistribution(dimension.low, dimension.high, log=isinstance(dimension, LogUniform))


def _worst_values(spec: TuneSpec, trials: Sequence[Trial]) -> list[float]:
    """The worst finite value measured of each objective."""
    measured = [
        [as_minimised(t.metrics.get(objective.metric), objective) for t in trials] for objective in spec.objectives
    ]
    return [max((value for value in values if math.isfinite(value)), default=0.0) for values in measured]


def _known(spec: TuneSpec, trial: Trial, worst: Sequence[float]) -> FrozenTrial:
    values = [as_minimised(trial.metrics.get(objective.metric), objective) for objective in spec.objectives]
    values = [value if math.isfinite(value) else bad for value, bad in zip(values, worst, strict=True)]
    if trial.outcome is None:
        return _frozen(spec, trial.point, TrialState.RUNNING)
    if trial.outcome == "failed":
        return _frozen(spec, trial.point, TrialState.COMPLETE, worst)
    if trial.outcome == "stopped" and len(values) == 1:
        objective = spec.objectives[0]
        intermediate = {step: as_minimised(metrics.get(objective.metric), objective) for step, metrics in trial.reports}
        return _frozen(spec, trial.point, TrialState.PRUNED, intermediate=intermediate)
    return _frozen(spec, trial.point, TrialState.COMPLETE, values)


def _frozen(
    spec: TuneSpec,
    point: Mapping[str, Number],
    state: TrialState,
    values: Sequence[float] | None = None,
    intermediate: Mapping[int, float] | None = None,
) -> FrozenTrial:
    distributions = _distributions(spec)
    params = {path: point[path] for path in distributions}
    return create_trial(
        state=state, values=values, params=params, distributions=distributions,
        intermediate_values=dict(intermediate or {}),
    )  # fmt: skip
