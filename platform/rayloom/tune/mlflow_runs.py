"""A search in MLflow: one parent run, and a child for each trial with its values, metrics by step and end."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rayloom.errors import ResourceError
from rayloom.observe.progress import say
from rayloom.specs.records import MlflowRecords
from rayloom.specs.tune import TuneSpec
from rayloom.tune.history import History, Trial
from rayloom.tune.results import shown

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "cut_off": "KILLED", "failed": "FAILED"}
_SEARCH, _TRIAL, _PARENT, _NAME = "rayloom.search", "rayloom.trial", "mlflow.parentRunId", "mlflow.runName"


def missing_mlflow(spec: TuneSpec) -> str | None:
    """What to do where MLflow is wanted and not installed; None where nothing is missing."""
    if spec.mlflow is None or importlib.util.find_spec("mlflow") is not None:
        return None
    return "mlflow needs MLflow: pip install mlflow-skinny, or take mlflow out of the job file"


@dataclass
class _Child:
    """A trial's run, and what of it MLflow knows."""

    run_id: str
    logged: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Each metric's last step and value."""
    num_copies: int = 0
    is_ended: bool = False


class MlflowRuns:
    """Follows a search's history; `record` is called whenever something may have happened.

    Everything is found again by tags, so that a restored search goes on in the runs of the killed one.
    """

    def __init__(self, records: MlflowRecords, spec: TuneSpec, version: str, history: History) -> None:
        """Raises ResourceError where MLflow cannot be reached."""
        # As with Ray: nothing about its use is sent to anyone, unless the environment says so.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Trials wait while a server is asked: seven attempts would be minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._records, self._spec, self._history = records, spec, history
        self._error: type[Exception] = MlflowException
        self._is_lost = False
        self._id = f"{spec.name}@{version}"
        try:
            self._client: Any = MlflowClient(records.uri)
            self._experiment_id = self._experiment()
            found = {run.data.tags.get(_TRIAL, ""): run for run in self._runs_of_this_search()}
            parent = found.pop("", None)
            self.parent_id: str = parent.info.run_id if parent else self._created(spec.name, {}).info.run_id
        except (MlflowException, OSError) as error:
            fix = "Start it, correct mlflow.uri, or take mlflow out of the job file."
            raise ResourceError(f"MLflow does not answer: {_first(error)}", where=records.uri, fix=fix) from error
        self._children = {int(number): self._child_of(run) for number, run in found.items()}

    def record(self) -> None:
        """Brings MLflow up to the history. Where it cannot be reached any more, says so once; the search goes on."""
        if self._is_lost:
            return
        try:
            for trial in self._history.trials.values():
                self._follow(trial)
        except self._error as error:
            self._is_lost = True
            say(f"MLflow does not answer any more, the search goes on without it: {_first(error)}")

    def finish(self, winner: Trial | None) -> None:
        """The rest of what happened, and the result on the parent run."""
        self._is_lost = False
        self.record()
        if self._is_lost:
            return
        if winner is None:
            self._client.set_terminated(self.parent_id, "FAILED")
            return
        self._client.log_batch(self.parent_id, metrics=_metrics(winner.metrics, winner.step))
        best = {"rayloom.best_trial": str(winner.number)}
        for key, value in (best | {f"best.{path}": shown(value) for path, value in winner.values.items()}).items():
            self._client.set_tag(self.parent_id, key, value)
        self._client.set_terminated(self.parent_id, "FINISHED")

    # -- one trial -----------------------------------------------------------------------------------------------------

    def _follow(self, trial: Trial) -> None:
        child = self._children.get(trial.number)
        if child is None:
            child = self._children[trial.number] = self._begun(trial)
        if child.is_ended:
            return
        for copy in trial.copies[child.num_copies :]:
            said = ", ".join(f"{path} {shown(value)}" for path, value in copy.values.items())
            self._client.set_tag(child.run_id, f"rayloom.step_{copy.step}", f"{copy.reason}, with {said}")
        child.num_copies = len(trial.copies)
        new = [metric for step, metrics in trial.reports for metric in _unknown(child, step, metrics)]
        if new:
            self._client.log_batch(child.run_id, metrics=new)
            child.logged |= {metric.key: (metric.step, metric.value) for metric in new}
        if trial.outcome is not None:
            self._client.set_tag(child.run_id, "rayloom.outcome", trial.outcome)
            self._client.set_tag(child.run_id, "rayloom.reason", trial.reason[:5000])
            self._client.set_terminated(child.run_id, _STATUS[trial.outcome])
            child.is_ended = True

    def _begun(self, trial: Trial) -> _Child:
        from mlflow.entities import Param

        tags = {_TRIAL: str(trial.number), _PARENT: self.parent_id}
        run = self._created(f"trial {trial.number}", tags)
        params = [Param(path, shown(value)) for path, value in trial.values.items()]
        self._client.log_batch(run.info.run_id, params=params)
        return _Child(run.info.run_id)

    # -- what is there -------------------------------------------------------------------------------------------------

    def _experiment(self) -> str:
        name = self._records.experiment or self._spec.name
        known = self._client.get_experiment_by_name(name)
        return str(known.experiment_id if known else self._client.create_experiment(name))

    def _runs_of_this_search(self) -> Iterator[Any]:
        token, chosen = None, f"tags.`{_SEARCH}` = '{self._id}'"
        while True:
            page = self._client.search_runs([self._experiment_id], chosen, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _child_of(self, run: Any) -> _Child:
        steps = {
            name: max((point.step, point.value) for point in self._client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }
        num_copies = sum(tag.startswith("rayloom.step_") for tag in run.data.tags)
        return _Child(run.info.run_id, steps, num_copies, run.info.status != "RUNNING")

    def _created(self, name: str, tags: Mapping[str, str]) -> Any:
        return self._client.create_run(self._experiment_id, tags={_NAME: name, _SEARCH: self._id, **tags})


def _unknown(child: _Child, step: int, metrics: Mapping[str, float]) -> Iterator[Any]:
    """What was not logged yet; a result may differ from the last measurement at the same step."""
    for metric in _metrics(metrics, step):
        known_step, known_value = child.logged.get(metric.key, (-1, math.nan))
        if step > known_step or (step == known_step and metric.value != known_value):
            yield metric


def _metrics(metrics: Mapping[str, float], step: int) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value in metrics.items() if math.isfinite(value)]


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
