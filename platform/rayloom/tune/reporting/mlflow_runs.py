"""A search in MLflow: a parent run, and for each trial a child run with its values, metrics by step and outcome."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayloom.observe.mlflow_experiment import MlflowExperiment, mlflow_metrics
from rayloom.specs.training.trackers import MlflowRecords
from rayloom.specs.tune import TuneSpec
from rayloom.tune.results import shown
from rayloom.tune.strategies.history import History, Trial

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "cut_off": "KILLED", "failed": "FAILED"}
_SEARCH, _TRIAL, _PARENT = "rayloom.search", "rayloom.trial", "mlflow.parentRunId"


@dataclass
class _Child:
    """A trial's run in MLflow, and what was logged of it."""

    run_id: str
    logged: dict[str, tuple[int, float]] = field(default_factory=dict)
    """The last step and value logged of each metric."""
    num_copies: int = 0
    is_ended: bool = False


class MlflowRuns:
    """The MLflow runs of a search; call `record` to log what is new in its history.

    Runs are found by tags, so that a restored search continues the runs of the killed one.
    """

    def __init__(
        self, records: MlflowRecords, spec: TuneSpec, version: str, history: History, job_directory: Path
    ) -> None:
        """Raises ResourceError if MLflow cannot be reached."""
        self._spec, self._history = spec, history
        self._id = f"{spec.name}@{version}"
        self._mlflow = MlflowExperiment(records, spec.name, job_directory)
        with self._mlflow.required():
            runs = {run.data.tags.get(_TRIAL, ""): run for run in self._mlflow.runs(_SEARCH, self._id)}
            parent = runs.pop("", None)
            self.parent_id: str = parent.info.run_id if parent else self._created(spec.name, {})
            self._children = {int(number): self._child_of(run) for number, run in runs.items()}

    def record(self) -> None:
        """Logs what is new in the history. If MLflow can no longer be reached, warns once; the search continues."""
        self._mlflow.wished(self._follow_all, "the search")

    def finish(self, winner: Trial | None) -> None:
        """Logs the rest of the history, and the result on the parent run."""
        self._mlflow.is_lost = False
        self.record()
        self._mlflow.wished(lambda: self._end(winner), "the search")

    def _end(self, winner: Trial | None) -> None:
        client = self._mlflow.client
        if winner is None:
            client.set_terminated(self.parent_id, "FAILED")
            return
        self._mlflow.log(self.parent_id, mlflow_metrics(winner.metrics, winner.step))
        best = {"rayloom.best_trial": str(winner.number)}
        for key, value in (best | {f"best.{path}": shown(value) for path, value in winner.values.items()}).items():
            client.set_tag(self.parent_id, key, value)
        client.set_terminated(self.parent_id, "FINISHED")

    # -- one trial -----------------------------------------------------------------------------------------------------

    def _follow_all(self) -> None:
        for trial in self._history.trials.values():
            self._follow(trial)

    def _follow(self, trial: Trial) -> None:
        child = self._children.get(trial.number)
        if child is None:
            child = self._children[trial.number] = self._begun(trial)
        if child.is_ended:
            return
        for copy in trial.copies[child.num_copies :]:
            values = ", ".join(f"{path} {shown(value)}" for path, value in copy.values.items())
            self._mlflow.client.set_tag(child.run_id, f"rayloom.step_{copy.step}", f"{copy.reason}, with {values}")
        child.num_copies = len(trial.copies)
        new = [metric for step, metrics in trial.reports for metric in _unknown(child, step, metrics)]
        self._mlflow.log(child.run_id, new)
        child.logged |= {metric.key: (metric.step, metric.value) for metric in new}
        if trial.outcome is not None:
            client = self._mlflow.client
            client.set_tag(child.run_id, "rayloom.outcome", trial.outcome)
            client.set_tag(child.run_id, "rayloom.reason", trial.reason[:5000])
            client.set_terminated(child.run_id, _STATUS[trial.outcome])
            child.is_ended = True

    def _begun(self, trial: Trial) -> _Child:
        tags = {_TRIAL: str(trial.number), _PARENT: self.parent_id}
        params = {path: shown(value) for path, value in trial.values.items()}
        return _Child(self._created(f"trial {trial.number}", tags, params))

    # -- what is there -------------------------------------------------------------------------------------------------

    def _child_of(self, run: Any) -> _Child:
        num_copies = sum(tag.startswith("rayloom.step_") for tag in run.data.tags)
        return _Child(run.info.run_id, self._mlflow.last_values(run), num_copies, run.info.status != "RUNNING")

    def _created(self, name: str, tags: Mapping[str, str], params: Mapping[str, str] | None = None) -> str:
        return self._mlflow.created(name, {_SEARCH: self._id, **tags}, params)


def _unknown(child: _Child, step: int, metrics: Mapping[str, float]) -> Iterator[Any]:
    """The metrics not logged yet; a trial's final result can differ from its measurement at the same step."""
    for metric in mlflow_metrics(metrics, step):
        known_step, known_value = child.logged.get(metric.key, (-1, math.nan))
        if step > known_step or (step == known_step and metric.value != known_value):
            yield metric
