"""A search in MLflow, in a real database: parent and children, over a kill too; and an MLflow that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.searches import EVERY, NUM_STEPS, Laboratory, search_in, tune_spec

from rayloom.errors import ResourceError
from rayloom.specs.training.trackers import MlflowRecords
from rayloom.tune.strategies.ranking import best

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
ASHA = {"type": "asha", "grace_steps": 10, "reduction_factor": 3}


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


def runs_in(uri: str) -> dict[str, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("search")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: run for run in found} | {"client": client}


def test_a_killed_search_goes_on_in_its_own_runs(uri: str, tmp_path: Path) -> None:
    from rayloom.tune.reporting.mlflow_runs import MlflowRuns

    spec, records = tune_spec(scheduler=ASHA, budget={"num_trials": 5}), MlflowRecords(uri=uri)
    first = search_in(tmp_path, spec)
    runs = MlflowRuns(records, spec, "0123", first.history, tmp_path)
    Laboratory(first, at_most_reports=7).work()
    runs.record()
    second = search_in(tmp_path, spec)
    again = MlflowRuns(records, spec, "0123", second.history, tmp_path)
    assert again.parent_id == runs.parent_id
    Laboratory(second, seed=1).work()
    winner = best(spec, second.history.trials.values())
    assert winner is not None
    again.finish(winner)

    found = runs_in(uri)
    client, parent = found.pop("client"), found.pop("search")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["rayloom.best_trial"] == str(winner.number)
    assert parent.data.metrics["heldout_loss"] == winner.metrics["heldout_loss"]
    assert set(found) == {f"trial {number}" for number in range(5)}
    for trial in second.history.trials.values():
        run = found[f"trial {trial.number}"]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == {"finished": "FINISHED", "stopped": "KILLED"}[str(trial.outcome)]
        assert run.data.params["adapter.rank"] == str(trial.values["adapter.rank"])
        points = client.get_metric_history(run.info.run_id, "heldout_loss")
        assert sorted((p.step, p.value) for p in points) == [(s, m["heldout_loss"]) for s, m in trial.reports]
    assert found[f"trial {winner.number}"].data.metrics["seconds"] == 1.0
    assert len(winner.reports) == NUM_STEPS // EVERY


@pytest.mark.parametrize("place", ["sqlite:///{folder}/notes.txt/mlflow.db", "http://127.0.0.1:9"])
def test_an_mlflow_that_is_not_there_is_said_before_anything_is_trained(uri: str, tmp_path: Path, place: str) -> None:
    from rayloom.tune.reporting.mlflow_runs import MlflowRuns

    (tmp_path / "notes.txt").touch()
    spec, records = tune_spec(), MlflowRecords(uri=place.format(folder=tmp_path))
    with pytest.raises(ResourceError, match="MLflow does not answer"):
        MlflowRuns(records, spec, "0123", search_in(tmp_path, spec).history, tmp_path)
