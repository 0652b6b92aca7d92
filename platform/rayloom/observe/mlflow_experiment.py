"""An experiment in MLflow: runs that are found again by a tag, numbers by step, and a server that may go away."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayloom.errors import ResourceError
from rayloom.observe.progress import say
from rayloom.specs.training.trackers import MlflowRecords

NAME_TAG = "mlflow.runName"
DATABASE = "mlflow.db"
"""Beside the job file, where the spec names no server and no database."""
CLIENT = {"mlflow": "mlflow-skinny"}
"""Package by what is imported of it."""
DATABASE_CLIENT = CLIENT | {"sqlalchemy": "sqlalchemy", "alembic": "alembic"}
MAX_PARAMS = 100
"""In one call."""


def missing_mlflow(records: MlflowRecords | None) -> str | None:
    """What to do where MLflow is wanted and not installed; None where nothing is missing."""
    if records is None:
        return None
    has_server = records.uri is not None and records.uri.startswith(("http", "databricks"))
    needed = CLIENT if has_server else DATABASE_CLIENT
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return None
    return f"mlflow needs MLflow: pip install {' '.join(missing)}, or take mlflow out of the job file"


class MlflowExperiment:
    """Where runs of one job are kept. Only its making and `required` fail; `wished` says once that MLflow is gone."""

    def __init__(self, records: MlflowRecords, job_name: str, job_directory: Path) -> None:
        """Raises ResourceError where MLflow cannot be reached."""
        # As with Ray: nothing about its use is sent to anyone, unless the environment says so.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Training waits while a server is asked: seven attempts would be minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self.uri = records.uri or f"sqlite:///{job_directory.resolve()}/{DATABASE}"
        self.is_lost = False
        self._error: type[Exception] = MlflowException
        with self.required():
            self.client: Any = MlflowClient(self.uri)
            name = records.experiment or job_name
            known = self.client.get_experiment_by_name(name)
            self._id = str(known.experiment_id if known else self.client.create_experiment(name))

    @contextmanager
    def required(self) -> Iterator[None]:
        """What must work before anything is computed."""
        try:
            yield
        except (self._error, OSError) as error:
            fix = "Start it, correct mlflow.uri, or take mlflow out of the job file."
            raise ResourceError(f"MLflow does not answer: {_first_line(error)}", where=self.uri, fix=fix) from error

    def wished(self, record: Callable[[], None], who: str) -> None:
        """Records something; where MLflow cannot be reached any more, says so once, and `who` goes on without it."""
        if self.is_lost:
            return
        try:
            record()
        except self._error as error:
            self.is_lost = True
            say(f"MLflow does not answer any more, {who} goes on without it: {_first_line(error)}")

    def runs(self, tag: str, value: str) -> Iterator[Any]:
        """Runs that were created with this tag."""
        token, chosen = None, f"tags.`{tag}` = '{value}'"
        while True:
            page = self.client.search_runs([self._id], chosen, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def created(self, name: str, tags: Mapping[str, str], params: Mapping[str, str] | None = None) -> str:
        """The id of a new run."""
        from mlflow.entities import Param

        run_id = str(self.client.create_run(self._id, tags={NAME_TAG: name, **tags}).info.run_id)
        entries = [Param(key, value) for key, value in (params or {}).items()]
        for begin in range(0, len(entries), MAX_PARAMS):
            self.client.log_batch(run_id, params=entries[begin : begin + MAX_PARAMS])
        return run_id

    def last_values(self, run: Any) -> dict[str, tuple[int, float]]:
        """Each metric's last step and its value there."""
        return {
            name: max((point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }

    def log(self, run_id: str, metrics: Sequence[Any]) -> None:
        if metrics:
            self.client.log_batch(run_id, metrics=metrics)


def mlflow_metrics(values: Mapping[str, float], step: int) -> list[Any]:
    """The finite ones, as MLflow takes them."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value in values.items() if math.isfinite(value)]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
