"""What of a search contradicts itself: metrics that nobody reports, and searchers and schedulers that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rayloom.errors import nearest
from rayloom.specs.base import references
from rayloom.specs.search.space import num_values
from rayloom.specs.search.strategies import (
    BohbSearcher,
    GaussianProcessSearcher,
    GridSearcher,
    NoScheduler,
    PopulationScheduler,
    RandomSearcher,
)
from rayloom.specs.search.trial_metrics import training_metrics

if TYPE_CHECKING:
    from rayloom.specs.tune import TuneSpec

CHANGEABLE = ("learning_rate", "schedule.", "optimizer.", "gradient_clip_norm", "adapter.dropout")
"""Fields that population-based training can change, because it keeps the weights."""
Problems = Iterator[tuple[tuple[str | int, ...], str]]
"""Path and text of each problem."""


def unvaried(spec: TuneSpec) -> dict[str, str]:
    """Paths of the space that must be the same in all trials, with the reason."""
    named = [reference.path for reference in references(spec.train)]
    reasons = {}
    for path in spec.space:
        if any(f"{name}.".startswith(f"{path}.") for name in named):
            reasons[path] = "names an artifact, and all trials start from the same ones; make a search for each"
        elif f"{path}.".startswith("workers."):
            reasons[path] = "says what a trial holds, which is the same for all; make a search for each"
        elif path in ("kind", "name", "description"):
            reasons[path] = "changes nothing that is trained"
    return reasons


def gpu_problems(spec: TuneSpec) -> Problems:
    gpus = spec.gpus_per_trial
    if not gpus.is_integer() and spec.train.workers.num_workers > 1:
        yield ("resources", "gpus_per_trial"), "a part of a GPU is for trials of one worker"
    elif not gpus.is_integer() and gpus > 1:
        yield ("resources", "gpus_per_trial"), "must be a part of one GPU, or a whole number of them"


def metric_problems(spec: TuneSpec) -> Problems:
    for number, objective in enumerate(spec.objectives):
        if objective.metric not in spec.metrics:
            reported = "training or a check reports"
            if spec.is_measured_once:
                reported = f"a search {spec.aim} measures"
            message = f"{objective.metric!r} is no metric that {reported}"
            yield (
                ("objectives", number, "metric"),
                f"{message}{nearest(objective.metric, spec.metrics)}; there are {', '.join(spec.metrics)}",
            )


def searcher_problems(spec: TuneSpec) -> Problems:
    if isinstance(spec.searcher, GridSearcher):
        for path, dimension in spec.space.items():
            if num_values(dimension) == 0:
                yield ("space", path), "a grid needs a list of values here, not a range: make it a choice"
    if isinstance(spec.searcher, GaussianProcessSearcher | BohbSearcher) and len(spec.objectives) > 1:
        yield ("searcher", "type"), f"{spec.searcher.type} takes one objective; tpe takes two"


def scheduler_problems(spec: TuneSpec) -> Problems:
    scheduler, every = spec.scheduler, spec.train.evaluate_every_steps
    if isinstance(scheduler, NoScheduler):
        return
    key = "interval_steps" if isinstance(scheduler, PopulationScheduler) else "grace_steps"
    if every is None:
        yield (
            ("scheduler",),
            f"{scheduler.type} compares trials while they run: set evaluate_every_steps in the training job, or "
            "`scheduler: {type: none}`",
        )
    elif (getattr(scheduler, key) or every) % every:
        yield (
            ("scheduler", key),
            f"must be a multiple of the training job's evaluate_every_steps ({every}), where trials are measured",
        )
    if spec.objectives[0].metric not in training_metrics(spec.train):
        yield (
            ("objectives", 0, "metric"),
            f"is known at the end of a trial only, and {scheduler.type} compares trials while they run: make it the "
            "second objective, or set `scheduler: {type: none}`",
        )
    if isinstance(scheduler, PopulationScheduler):
        yield from _population_problems(spec)


def _population_problems(spec: TuneSpec) -> Problems:
    if spec.budget.num_trials is not None:
        yield ("budget", "num_trials"), "a population's trials are its members: set scheduler.num_members"
    for path in spec.space:
        if not path.startswith(CHANGEABLE):
            yield (
                ("space", path),
                "population-based training keeps weights while values change, and this field shapes or scales them; "
                f"it can vary {', '.join(name.rstrip('.') for name in CHANGEABLE)}",
            )
    if not isinstance(spec.searcher, GridSearcher | RandomSearcher):
        yield ("searcher", "type"), "population-based training begins from random or grid points"
    if spec.train.early_stopping is not None:
        yield ("scheduler", "type"), "population-based training needs a training job without early_stopping"
