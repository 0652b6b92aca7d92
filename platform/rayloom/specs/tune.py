"""`kind: tune`: a search over the fields of a training, serve or evaluate job, in a budget; it writes the best job."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Bundle, JobFile, JobSpec, OutsideFiles, Spec
from rayloom.specs.evaluate import EvaluateSpec
from rayloom.specs.search.problems import (
    gpu_problems,
    metric_problems,
    scheduler_problems,
    searcher_problems,
    unvaried,
)
from rayloom.specs.search.prompts import fixed_paths, prompt_metrics, prompt_problems
from rayloom.specs.search.refusals import space_problems
from rayloom.specs.search.space import Space, num_values
from rayloom.specs.search.speed import (
    SERVING_METRICS,
    TIMED_METRICS,
    ServingLoad,
    TimedSteps,
    measuring_problems,
    unmeasured_paths,
)
from rayloom.specs.search.strategies import (
    AshaScheduler,
    GridSearcher,
    PopulationScheduler,
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
from rayloom.specs.serve import ServeSpec
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.trackers import MlflowRecords

Goal = Literal["minimise", "maximise"]


class SearchObjective(Spec):
    """One metric to minimise or maximise."""

    metric: str = "heldout_loss"
    """What training reports, or `checks.NAME.share` and the like of a check below; of a search for speed, such as
    goodput_tokens_per_second of a service, what it measures."""
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
    """Searches for the values of a training job that give the best metric, or with which a job is fastest here, or for
    the best prompt."""

    kind: Literal["tune"]
    train_job: Annotated[TrainSpec | None, Field(alias="train"), JobFile(overrides="set")] = None
    """The training job whose fields are varied: the path of its file, or the job itself. Default: serve is given."""
    serve: Annotated[ServeSpec | None, JobFile(overrides="set")] = None
    """The serve job whose fields are varied: each trial starts it, loads its first model, and stops it."""
    evaluate: Annotated[EvaluateSpec | None, JobFile(overrides="set")] = None
    """The evaluation whose prompts are varied (checks of type prompted): templates, label words, demonstrations."""
    load: ServingLoad = ServingLoad()
    """With serve: the load under which a trial is measured, and what a good answer is."""
    timed_steps: TimedSteps | None = None
    """With train: measure the speed of a few steps, not the model. Default: trials train to their end."""
    hardware: str | None = None
    """The machine that a search for speed holds for. Filled in at its start: another machine measures anew."""
    set: tuple[str, ...] = ()
    """Changes to that job for every trial, each `path.to.field=value`, such as fewer steps than the final run."""
    space: Space
    """What is varied: the dotted path of a key of the job, and the values that it may take."""
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
    """Seed of the search; a training job has its own, the same for all trials."""
    mlflow: Annotated[MlflowRecords | None, "unfingerprinted"] = None
    """One parent run for the search and a child for each trial, beside the search's own records."""

    def bundles(self) -> list[Bundle]:
        """The bundles of one trial; the search runs as many trials at once as fit."""
        return self.job.bundles()

    def most_bundles(self) -> list[Bundle]:
        """The bundles of all trials that may run at once."""
        if self.is_measured_once:
            return self.job.most_bundles()
        workers = self.train.workers
        one = Bundle(workers.cpus_per_worker, self.gpus_per_trial / workers.num_workers)
        trials = self.num_trials or 1
        trials = min(trials, self.resources.max_concurrent_trials or trials)
        return [one] * (workers.num_workers * trials)

    def outside_files(self) -> Iterator[OutsideFiles]:
        yield from (replace(files, path=f"{self.job.kind}.{files.path}") for files in self.job.outside_files())
        if self.load.prompts is not None:
            yield OutsideFiles("load.prompts", self.load.prompts)

    @cached_property
    def job(self) -> TrainSpec | ServeSpec | EvaluateSpec:
        """The searched job, with engines as settings; its kind is the key that it stands under."""
        if self.evaluate is not None:
            return self.evaluate
        if self.serve is None:
            return self.train
        models = tuple(served.with_engine(served.engine) for served in self.serve.models)
        return self.serve.model_copy(update={"models": models})

    @property
    def train(self) -> TrainSpec:
        """The training job of a search over one."""
        assert self.train_job is not None
        return self.train_job

    @property
    def measures_speed(self) -> bool:
        """Whether trials measure a job's speed and make no model."""
        return self.serve is not None or self.timed_steps is not None

    @property
    def is_measured_once(self) -> bool:
        """Whether trials measure a job, one after the other, and make no model."""
        return self.measures_speed or self.evaluate is not None

    @property
    def aim(self) -> str:
        """What a search whose trials make no model is for, in words."""
        return "for speed" if self.measures_speed else "over prompts"

    @cached_property
    def plain_job(self) -> dict[str, Any]:
        """The searched job as plain values."""
        return self.job.model_dump(mode="json", by_alias=True)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that a trial reports, during training or at its end."""
        if self.evaluate is not None:
            return prompt_metrics(self.evaluate)
        if self.measures_speed:
            return SERVING_METRICS if self.serve is not None else TIMED_METRICS
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
    def _searches_over_one_job(self) -> Self:
        if [self.train_job, self.serve, self.evaluate].count(None) != 2:
            raise ValueError("a search is over one job: give train, serve or evaluate")
        return self

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
        """Values that the job refuses, and conflicts between scheduler, searcher and space."""
        if self.evaluate is not None:
            fixed = fixed_paths(self, self.evaluate)
        else:
            fixed = unmeasured_paths(self) if self.measures_speed else unvaried(self)
        for path, reason in fixed.items():
            yield ("space", path), reason
        varied = {path: dimension for path, dimension in self.space.items() if path not in fixed}
        if varied:
            for path, reason in space_problems(type(self.job), self.plain_job, varied):
                yield ("space", path), reason
        yield from metric_problems(self)
        yield from searcher_problems(self)
        if self.train_job is not None:
            yield from self._training_problems(self.train_job)
        if self.is_measured_once:
            yield from measuring_problems(self)
            yield from prompt_problems(self.evaluate) if self.evaluate is not None else ()
            return
        yield from check_problems(self.checks, self.train)
        yield from scheduler_problems(self)
        yield from gpu_problems(self)

    def _training_problems(self, train: TrainSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if train.settings_from is not None:
            yield ("train", "settings_from"), "a search finds values itself: add settings_from=null to `set`"
        if self.measures_speed and train.policy is not None:
            yield ("timed_steps",), "times training on rows; a policy's rows are written by engines"
        if train.rollouts is not None and train.rollouts.sleeps:
            said = "a trial's engines cannot sleep on its trainer's GPUs: set placement: own"
            yield ("train", "rollouts", "placement"), said
