"""Searchers: the point of the next trial, as a pure function of the history and the trial's number.

For Optuna's samplers, a study is rebuilt from the history for each point, so that no state has to be saved and restored
(a study of a thousand trials is built in milliseconds).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from rayloom.errors import ResourceError
from rayloom.specs.search.space import Number
from rayloom.specs.search.strategies import BohbSearcher, GaussianProcessSearcher, GridSearcher, TpeSearcher
from rayloom.specs.tune import TuneSpec
from rayloom.tune.strategies.history import History, Trial
from rayloom.tune.strategies.points import drawn, generator, grid_point, grid_size

MOST_REDRAWS = 50


def missing_package(spec: TuneSpec) -> str | None:
    """What to do if the searcher's package is not installed; None if it is."""
    if not isinstance(spec.searcher, TpeSearcher | GaussianProcessSearcher | BohbSearcher):
        return None
    if importlib.util.find_spec("optuna") is not None:
        return None
    return f"the searcher {spec.searcher.type} needs Optuna: pip install 'optuna>=5', or use the searcher random"


def suggested_point(spec: TuneSpec, history: History, number: int, earlier: Sequence[Trial] = ()) -> dict[str, Number]:
    """The point of trial `number`. `earlier`: trials of warm-start searches, with points of this space.

    A point that was tried already is redrawn if the space has others, because repeating it gives the same result.
    """
    if isinstance(spec.searcher, GridSearcher):
        return grid_point(spec.space, number)
    tried = [trial.point for trial in history.trials.values()]
    point = _suggested_once(spec, history, number, earlier)
    draw = generator(spec.seed, "again", number)
    size = grid_size(spec.space)
    for _ in range(MOST_REDRAWS if size == 0 or len(tried) < size else 0):
        if point not in tried:
            break
        point = drawn(spec.space, draw)
    return point


def _suggested_once(spec: TuneSpec, history: History, number: int, earlier: Sequence[Trial]) -> dict[str, Number]:
    searcher, draw = spec.searcher, generator(spec.seed, "point", number)
    point, seed = drawn(spec.space, draw), draw.randrange(1 << 31)
    if isinstance(searcher, TpeSearcher | GaussianProcessSearcher) and number + len(earlier) >= searcher.random_trials:
        return _model_proposal(spec, [*earlier, *history.trials.values()], seed)
    if isinstance(searcher, BohbSearcher) and draw.random() >= searcher.random_share:
        return _model_proposal_at_largest_step(spec, searcher, history, seed) or point
    return point


def _model_proposal(spec: TuneSpec, trials: Sequence[Trial], seed: int) -> dict[str, Number]:
    if (missing := missing_package(spec)) is not None:
        raise ResourceError(missing)
    from rayloom.tune.strategies.optuna_study import as_study_trials, proposed

    return proposed(spec, as_study_trials(spec, trials), seed)


def _model_proposal_at_largest_step(
    spec: TuneSpec, searcher: BohbSearcher, history: History, seed: int
) -> dict[str, Number] | None:
    """The proposal of a model of the largest step at which enough trials were measured; None if there is none."""
    if (missing := missing_package(spec)) is not None:
        raise ResourceError(missing)
    from rayloom.tune.strategies.optuna_study import measured_at, proposed

    enough = searcher.min_points or len(spec.space) + 1
    trials = list(history.trials.values())
    for step in sorted({step for trial in trials for step, _ in trial.reports}, reverse=True):
        measured = measured_at(spec, trials, step)
        if len(measured) >= enough:
            return proposed(spec, measured, seed)
    return None
