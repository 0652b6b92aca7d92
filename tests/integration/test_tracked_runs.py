"""Training runs in real trackers: MLflow's own database, over a kill too, and Weights & Biases' files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.training_jobs import small_spec

from rayloom.errors import InterruptedJobError, ResourceError
from rayloom.specs.train import TrainSpec
from rayloom.train.reporting.trackers import TrackedRun, opened

HELDOUT = {"event": "heldout", "step": 4, "name": "heldout", "loss": 1.0, "perplexity": 2.75, "labels": 10}
# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def step(number: int) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": 3.0 / number, "learning_rate": 0.1, "gradient_norm": 1.5,
            "tokens": 100, "seconds": 0.5, "data_wait_seconds": 0.0, "labels": 90}  # fmt: skip


def spec_with(**tracker: Any) -> TrainSpec:
    return small_spec(name="job", trackers=[tracker])


def test_a_job_that_continues_goes_on_in_its_own_mlflow_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    run = TrackedRun(spec_with(type="mlflow"), "0123", tmp_path / "jobs")
    with pytest.raises(InterruptedJobError), opened(run) as (tracker,):
        for number in (1, 2, 3):
            tracker.add(step(number))
        raise InterruptedJobError("stopped")
    client = MlflowClient(f"sqlite:///{tmp_path}/jobs/mlflow.db")
    experiment = client.get_experiment_by_name("job")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "KILLED"
    with opened(run) as (tracker,):
        # From the checkpoint of step 2: what MLflow has is not written twice.
        for event in (step(3), step(4), HELDOUT):
            tracker.add(event)
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "job@0123")
    assert found.data.params["learning_rate"] == "0.01"
    assert found.data.metrics["heldout/perplexity"] == 2.75
    losses = [(p.step, p.value) for p in client.get_metric_history(found.info.run_id, "train/loss")]
    assert sorted(losses) == [(number, 3.0 / number) for number in (1, 2, 3, 4)]


def test_an_mlflow_that_is_not_there_is_said_before_training(tmp_path: Path) -> None:
    run = TrackedRun(spec_with(type="mlflow", uri="http://127.0.0.1:9"), "0123", tmp_path)
    with pytest.raises(ResourceError, match="MLflow does not answer"), opened(run):
        pass


@pytest.mark.full
def test_weights_and_biases_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is an extra of its own")
    with opened(TrackedRun(spec_with(type="wandb"), "0123", tmp_path)) as (tracker,):
        for event in (step(1), step(2), HELDOUT, step(2)):
            tracker.add(event)
    (kept,) = (tmp_path / "runs" / "wandb").glob("offline-run-*-job-0123")
    (written,) = kept.glob("run-*.wandb")
    assert b"train/loss" in written.read_bytes()
