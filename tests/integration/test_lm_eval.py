"""A task of the evaluation harness on a real model, where the harness is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rayloom.artifacts.store import Artifact, Store
from rayloom.commands.report import rendered
from rayloom.dispatch import load_job, run
from rayloom.errors import InputError

TASK = {
    "task": "capitals",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": "rows.jsonl"},
    "test_split": "train",
    "output_type": "multiple_choice",
    "doc_to_text": "The capital of {{country}} is",
    "doc_to_target": "answer",
    "doc_to_choice": "choices",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
CAPITALS = {"France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}


@pytest.mark.full
def test_own_tasks_are_measured_with_an_interval_and_unknown_ones_are_named(
    shared_store: Store, smollm2: Artifact, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/capitals.yaml").write_text(yaml.safe_dump(TASK))
    rows = [{"country": country, "choices": list(CAPITALS.values()), "answer": n} for n, country in enumerate(CAPITALS)]
    (tmp_path / "tasks/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    check = {"type": "lm_eval", "tasks": ["capitals"], "task_files": "./tasks", "min_score": 0.5}
    job = {"kind": "evaluate", "name": "harness", "model": f"artifact:{smollm2.id}", "checks": [check]}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    made, _ = run(load_job(tmp_path / "job.yaml"), shared_store)
    found = made.manifest.metrics["checks"]["lm-eval"]["model"]
    assert found["num_rows"] == 5
    assert found["score"] >= 0.5
    assert found["tasks"]["capitals"]["acc"] == pytest.approx(found["score"])
    assert "by task" in rendered(shared_store, made.manifest)
    with pytest.raises(InputError, match="cannot be read"):
        run(load_job(tmp_path / "job.yaml", ('checks.0.tasks=["nothing-of-the-kind"]',)), shared_store)
