"""`kind: tune`: a hyperparameter search over the fields of a training job, within a budget; it writes the best job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Bundle, JobFile, JobSpec, OutsideFiles, Spec, references
from rayloom.specs.files.problems import nearest
from rayloom.specs.search.space import Choice, Multiple, Space, space_problems
from rayloom.specs.search.strategies import (
    AshaScheduler,
    BohbSearcher,
    GaussianProcessSearcher,
    GridSearcher,
    NoScheduler,
    PopulationScheduler,
    RandomSearcher,
    Scheduler,
    Searcher,
    TpeSearcher,
)
from rayloom.specs.search.trial_metrics import (
    RESULT_METRICS,
    TrialCheck,
    check_metrics,
    check_problems,
    is_better_large,
    training_metrics,
)
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.trackers import MlflowRecords

Goal = Literal["minimise", "maximise"]

CHANGEABLE = ("learning_rate", "schedule.", "optimizer.", "gradient_clip_norm", "adapter.dropout")
"""Fields that population-based training can change, because it keeps the weights."""


class SearchObjective(Spec):
    """One metric to minimise or maximise."""

    metric: str = "heldout_loss"
    """What training reports, or `checks.NAME.share` and the like of a check below."""
    goal: Goal | None = None
    """Default: maximise for speed, accuracies, scores, shares and counts, minimise for other metrics."""

    @property
    def sign(self) -> float:
        """1 if smaller is better, -1 if larger is: sign × value is always minimised."""
        goal = self.goal or ("maximise" if is_better_large(self.metric) else "minimise")
        return 1.0 if goal == "minimise" else -1.0


class TrialResources(Spec):
    """The resources of one trial. Workers and their CPUs are those of the training job."""

    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    """A part of one GPU where the job has one worker. Default: workers.gpus_per_worker for each worker."""
    memory_bytes_per_trial: Annotated[int, Field(ge=1)] | None = None
    """Memory that a trial reserves. Default: what the plan of the training job estimates."""
    max_concurrent_trials: Annotated[int, Field(ge=1)] | None = None
    """Trials that run at once at most. Default: as many as the cluster has room for."""


class Budget(Spec):
    """Limits of the search; it ends when the first is reached, with the trials finished by then."""

    num_trials: Annotated[int, Field(ge=1)] | None = None
    """Trials in all. Default: every combination of a grid, every member of a population; other searchers need it."""
    num_steps: Annotated[int, Field(ge=1)] | None = None
    """Training steps of all trials together."""
    wall_seconds: Annotated[float, Field(gt=0)] | None = None
    """Time from the start of the search. Default: no limit."""
    cost: Annotated[float, Field(gt=0)] | None = None
    """Most that the search may cost, in the currency of price_per_hour."""
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    """What an hour of the whole cluster costs."""

    @model_validator(mode="after")
    def _cost_needs_a_price(self) -> Self:
        if self.cost is not None and self.price_per_hour is None:
            raise ValueError("cost needs price_per_hour")
        return self

    @property
    def seconds(self) -> float | None:
        """Wall time in seconds that `wall_seconds` and `cost` allow; None: no limit."""
        by_cost = self.cost / self.price_per_hour * 3600 if self.cost and self.price_per_hour else None
        limits = [limit for limit in (self.wall_seconds, by_cost) if limit is not None]
        return min(limits, default=None)

    def cost_of(self, seconds: float) -> float | None:
        """The cost of this wall time; None if no price is given."""
        return None if self.price_per_hour is None else seconds / 3600 * self.price_per_hour


class TuneSpec(JobSpec):
    """Searches for the values of a training job that give the best metric."""

    kind: Literal["tune"]
    train: Annotated[TrainSpec, JobFile(overrides="set")]
    """The job whose fields are varied: the path of its file, or the job itself."""
    set: tuple[str, ...] = ()
    """Changes to that job for every trial, each `path.to.field=value`, such as fewer steps than the final run."""
    space: Space
    """What is varied: the dotted path of a key of the training job, and the values that it may take."""
    objectives: Annotated[tuple[SearchObjective, ...], Field(min_length=1, max_length=2)] = (SearchObjective(),)
    """One or two metrics to optimise. With two, the result is the Pareto front: the trials that no other beats in both.
    The scheduler, and the choice of the best trial, then use the first metric only."""
    checks: tuple[TrialCheck, ...] = ()
    """Checks of an `evaluate` job, run on each finished trial. Their results can be objectives; their limits are
    ignored."""
    searcher: Searcher = TpeSearcher(type="tpe")
    """How the values of the next trial are chosen."""
    scheduler: Scheduler = AshaScheduler(type="asha")
    """Which trials are stopped before their end."""
    budget: Budget = Budget()
    """When the search ends."""
    resources: TrialResources = TrialResources()
    """What each trial reserves, and how many run at once."""
    max_crashes_per_trial: Annotated[int, Field(ge=0)] = 2
    """How often a trial whose process or node died goes on from its last checkpoint before it counts as failed."""
    seed: int = 0
    """Seed of the search; the training job has its own, the same for all trials."""
    mlflow: Annotated[MlflowRecords | None, "unfingerprinted"] = None
    """One parent run for the search and a child for each trial, beside the search's own records."""

    def bundles(self) -> list[Bundle]:
        """The bundles of one trial; the search runs as many trials at once as fit."""
        return self.train.bundles()

    def most_bundles(self) -> list[Bundle]:
        """The bundles of all trials that may run at once."""
        workers = self.train.workers
        one = Bundle(workers.cpus_per_worker, self.gpus_per_trial / workers.num_workers)
        trials = self.num_trials or 1
        trials = min(trials, self.resources.max_concurrent_trials or trials)
        return [one] * (workers.num_workers * trials)

    def outside_files(self) -> Iterator[OutsideFiles]:
        yield from (replace(files, path=f"train.{files.path}") for files in self.train.outside_files())

    @cached_property
    def plain_train(self) -> dict[str, Any]:
        """The training job as plain values."""
        return self.train.model_dump(mode="json", by_alias=True)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that a trial reports, during training or at its end."""
        return (*training_metrics(self.train), *RESULT_METRICS, *check_metrics(self.checks, self.train.task))

    @property
    def gpus_per_trial(self) -> float:
        workers = self.train.workers
        asked = self.resources.gpus_per_trial
        return float(workers.num_workers * workers.gpus_per_worker if asked is None else asked)

    @property
    def num_trials(self) -> int | None:
        """The largest number of trials; None if it is not set."""
        if isinstance(self.scheduler, PopulationScheduler):
            return self.scheduler.num_members
        if isinstance(self.searcher, GridSearcher):
            size = 1
            for dimension in self.space.values():
                size *= num_values(dimension)
            return min(size, self.budget.num_trials or size)
        return self.budget.num_trials

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.num_trials is None:
            raise ValueError(f"budget.num_trials is needed with the searcher {self.searcher.type}")
        return self

    @model_validator(mode="after")
    def _objectives_differ(self) -> Self:
        if len({objective.metric for objective in self.objectives}) < len(self.objectives):
            raise ValueError("the two objectives are the same metric")
        return self

    def further_problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Values that the training job refuses, and conflicts between scheduler, searcher and space."""
        varied = {path: dimension for path, dimension in self.space.items() if path not in _unvaried(self)}
        for path, reason in _unvaried(self).items():
            yield ("space", path), reason
        if varied:
            for path, reason in space_problems(TrainSpec, self.plain_train, varied):
                yield ("space", path), reason
        yield from _metric_problems(self)
        yield from check_problems(self.checks, self.train)
        yield from _searcher_problems(self)
        yield from _scheduler_problems(self)
        if self.train.settings_from is not None:
            yield ("train", "settings_from"), "a search finds values itself: add settings_from=null to `set`"
        if self.train.rollouts is not None and self.train.rollouts.sleeps:
            said = "a trial's engines cannot sleep on its trainer's GPUs: set placement: own"
            yield ("train", "rollouts", "placement"), said
        yield from _gpu_problems(self)


def _unvaried(spec: TuneSpec) -> dict[str, str]:
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


def _gpu_problems(spec: TuneSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    gpus = spec.gpus_per_trial
    if not gpus.is_integer() and spec.train.workers.num_workers > 1:
        yield ("resources", "gpus_per_trial"), "a part of a GPU is for trials of one worker"
    elif not gpus.is_integer() and gpus > 1:
        yield ("resources", "gpus_per_trial"), "must be a part of one GPU, or a whole number of them"


def num_values(dimension: Any) -> int:
    """The number of values of a dimension; 0 for a range."""
    if isinstance(dimension, Choice):
        return len(dimension.values)
    if isinstance(dimension, Multiple):
        return len(dimension.times)
    return (dimension.high - dimension.low) // dimension.step + 1 if hasattr(dimension, "step") else 0


def _metric_problems(spec: TuneSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for number, objective in enumerate(spec.objectives):
        if objective.metric not in spec.metrics:
            message = f"{objective.metric!r} is no metric that training or a check reports"
            yield (
                ("objectives", number, "metric"),
                f"{message}{nearest(objective.metric, spec.metrics)}; there are {', '.join(spec.metrics)}",
            )


def _searcher_problems(spec: TuneSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(spec.searcher, GridSearcher):
        for path, dimension in spec.space.items():
            if num_values(dimension) == 0:
                yield ("space", path), "a grid needs a list of values here, not a range: make it a choice"
    if isinstance(spec.searcher, GaussianProcessSearcher | BohbSearcher) and len(spec.objectives) > 1:
        yield ("searcher", "type"), f"{spec.searcher.type} takes one objective; tpe takes two"


def _scheduler_problems(spec: TuneSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
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


def _population_problems(spec: TuneSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
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
