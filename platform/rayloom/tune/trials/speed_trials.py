"""Trials of a search for speed, one at a time: each runs the real job on this machine, measures it and ends it."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rayloom.artifacts.build import Build
from rayloom.artifacts.store import Artifact
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.errors import InterruptedJobError, QualityError
from rayloom.models.processor import machine_name
from rayloom.serve.found_engines import FoundEngine, keep
from rayloom.serve.speed_trial import measured
from rayloom.specs.search.space import ModelChoice, Values, substituted
from rayloom.specs.serve import ServeSpec
from rayloom.specs.tune import TuneSpec
from rayloom.train.run import timed
from rayloom.tune.search import Search
from rayloom.tune.strategies.history import Trial
from rayloom.tune.trials.trial import reason_of
from rayloom.tune.trials.trial_files import TrialFiles

STEP = 1
"""A trial is measured once, at its end."""


class MeasuredTrials(ABC):
    """What is measured in a trial that makes no model."""

    @abstractmethod
    def measure(self, number: int, values: Values) -> dict[str, float]:
        """The metrics of a job with these values. Raises if the job cannot run with them."""


def run_one_by_one(search: Search, trials: MeasuredTrials, on_end: Callable[[], None]) -> None:
    """Runs the search until it ends. A trial whose job fails is recorded with the reason, and the next one begins."""
    while (run := search.next_run()) is not None:
        try:
            metrics = trials.measure(run.trial, run.values)
        except InterruptedJobError:
            raise  # Ctrl-C: the trial begins anew when the search is run again
        except OSError as error:
            search.hindered(run.trial, str(error))
        except Exception as error:  # noqa: BLE001 - any error of a job is its trial's result, and engines raise many kinds
            search.failed(run.trial, reason_of(error))
        else:
            search.finished(run.trial, STEP, metrics)
        on_end()


class ServedTrials(MeasuredTrials):
    """Services under load."""

    def __init__(self, spec: TuneSpec, build: Build) -> None:
        self._spec, self._build = spec, build

    def measure(self, number: int, values: Values) -> dict[str, float]:  # noqa: ARG002
        spec, parents = self._job(values)
        return measured(spec, self._spec.load, parents, self._build.store, self._build.job_directory)

    def keep(self, trial: Trial) -> None:
        """Keeps the trial's engine in the store, for services of its model on this kind of machine."""
        spec, parents = self._job(trial.values)
        served, model = spec.models[0], parents["models.0.model"].manifest
        found = FoundEngine(
            served.engine.model_dump(mode="json", by_alias=True),
            f"{self._spec.name}@{self._build.version}",
            self._spec.load.model_dump(mode="json"),
            trial.metrics,
        )
        keep(self._build.store, self._spec.hardware or machine_name(), model, found)

    def _job(self, values: Values) -> tuple[ServeSpec, dict[str, Artifact]]:
        spec = ServeSpec.model_validate_json(json.dumps(substituted(self._spec.plain_job, values)), strict=True)
        return spec, parents_of_trial(self._spec, self._build.parents, values)


def parents_of_trial(spec: TuneSpec, parents: Mapping[str, Artifact], values: Values) -> dict[str, Artifact]:
    """The artifacts of the job with these values, by dotted path in it."""
    prefix = f"{spec.job.kind}."
    own = {path.removeprefix(prefix): artifact for path, artifact in parents.items() if path.startswith(prefix)}
    for path, dimension in spec.space.items():
        if isinstance(dimension, ModelChoice) and path in values:
            own[path] = parents[f"space.{path}.values.{dimension.values.index(values[path])}"]
    return own


class TimedTrials(MeasuredTrials):
    """The first steps of training jobs, on Ray Train's workers as in a whole run."""

    def __init__(self, spec: TuneSpec, build: Build, copy: WorkCopy | None, trials: Mapping[int, Trial]) -> None:
        """`trials`: of the search so far, with which a trial's loss must agree."""
        self._spec, self._build, self._trials = spec, build, trials
        self._files = TrialFiles(spec, build.parents, build.work, copy, build.store)
        self._files.prepare_rows()

    def measure(self, number: int, values: Values) -> dict[str, float]:
        steps = self._spec.timed_steps
        assert steps is not None
        # What a killed session left of this trial would be continued, or taken for its result.
        self._files.remove(number)
        job = self._files.job(number, 0, values)
        build = Build(
            self._build.store, job.out, job.work, self._files.training_parents, self._build.job_directory,
            self._build.version,
        )  # fmt: skip
        try:
            found = timed_figures(timed(job, build, steps.warm_up_steps + steps.steps), steps.warm_up_steps)
        finally:
            self._files.remove(number)
        problem = disagreement(found["train_loss"], self._trials.values(), steps.loss_difference_share)
        if problem is not None:
            raise QualityError(problem)
        return found


def timed_figures(events: Sequence[Mapping[str, Any]], warm_up_steps: int) -> dict[str, float]:
    """The metrics of a trial (`TIMED_METRICS`) from the log of its steps."""
    steps = [event for event in events if event["event"] == "step"]
    counted = steps[warm_up_steps:]
    seconds = math.fsum(event["seconds"] for event in counted)
    peak = next((event["peak_memory_bytes"] for event in events if event["event"] == "finished"), None)
    return {
        "tokens_per_second": round(sum(event["tokens"] for event in counted) / seconds, 2),
        "train_loss": math.fsum(event["loss"] for event in steps) / len(steps),
        **({} if peak is None else {"peak_memory_bytes": float(peak)}),
    }


def disagreement(loss: float, trials: Iterable[Trial], tolerance: float) -> str | None:
    """Why a loss is not that of the same training as the first finished trial's; None if it is or there is none."""
    first = next((trial for trial in trials if trial.outcome == "finished"), None)
    if first is None or abs(loss - first.metrics["train_loss"]) <= tolerance * abs(first.metrics["train_loss"]):
        return None
    return (
        f"its loss over the same steps is {loss:.5g} and that of trial {first.number} "
        f"{first.metrics['train_loss']:.5g}: these values change what is learned, not only its speed"
    )
