"""An experiment in MLflow: creates runs, finds them by tag, logs metrics, and survives the loss of the server."""

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
"""SQLite file beside the job file, used if the spec names no server and no database."""
CLIENT = {"mlflow": "mlflow-skinny"}
"""The distribution to install, by the module to import."""
DATABASE_CLIENT = CLIENT | {"sqlalchemy": "sqlalchemy", "alembic": "alembic"}
MAX_PARAMS = 100
"""Most parameters of one call."""


def missing_mlflow(records: MlflowRecords | None) -> str | None:
    """What to do if MLflow is configured and not installed; None if nothing is missing."""
    if records is None:
        return None
    has_server = records.uri is not None and records.uri.startswith(("http", "databricks"))
    needed = CLIENT if has_server else DATABASE_CLIENT
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return None
    return f"mlflow needs MLflow: pip install {' '.join(missing)}, or take mlflow out of the job file"


class MlflowExperiment:
    """The MLflow experiment of one job. If MLflow fails, constructor and `required` raise; `wished` only warns once."""

    def __init__(self, records: MlflowRecords, job_name: str, job_directory: Path) -> None:
        """Raises ResourceError if MLflow cannot be reached."""
        # Telemetry is off, as Ray's is, unless the environment turns it on.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Training waits for each request: the default of seven retries would take minutes.
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
        """Turns an MLflow error in the block into a ResourceError: for calls that must work before the job starts."""
        try:
            yield
        except (self._error, OSError) as error:
            fix = "Start it, correct mlflow.uri, or take mlflow out of the job file."
            raise ResourceError(f"MLflow does not answer: {_first_line(error)}", where=self.uri, fix=fix) from error

    def wished(self, record: Callable[[], None], who: str) -> None:
        """Calls `record`; if MLflow fails, says once that `who` goes on without it, and skips all later calls."""
        if self.is_lost:
            return
        try:
            record()
        except self._error as error:
            self.is_lost = True
            say(f"MLflow does not answer any more, {who} goes on without it: {_first_line(error)}")

    def runs(self, tag: str, value: str) -> Iterator[Any]:
        """The runs with this value of a tag."""
        token, chosen = None, f"tags.`{tag}` = '{value}'"
        while True:
            page = self.client.search_runs([self._id], chosen, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def created(self, name: str, tags: Mapping[str, str], params: Mapping[str, str] | None = None) -> str:
        """Creates a run and returns its id."""
        from mlflow.entities import Param

        run_id = str(self.client.create_run(self._id, tags={NAME_TAG: name, **tags}).info.run_id)
        entries = [Param(key, value) for key, value in (params or {}).items()]
        for begin in range(0, len(entries), MAX_PARAMS):
            self.client.log_batch(run_id, params=entries[begin : begin + MAX_PARAMS])
        return run_id

    def last_values(self, run: Any) -> dict[str, tuple[int, float]]:
        """Last step and its value, by metric."""
        return {
            name: max((point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }

    def log(self, run_id: str, metrics: Sequence[Any]) -> None:
        if metrics:
            self.client.log_batch(run_id, metrics=metrics)


def mlflow_metrics(values: Mapping[str, float], step: int) -> list[Any]:
    """The finite values as MLflow metrics."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value in values.items() if math.isfinite(value)]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
