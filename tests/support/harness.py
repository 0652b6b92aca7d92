"""An evaluation by the harness with a task and data of its own."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from rayloom.artifacts.store import Artifact

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


def write_job(folder: Path, model: Artifact) -> Path:
    """Five capitals, of which a model that knows little finds most."""
    (folder / "tasks").mkdir()
    (folder / "tasks/capitals.yaml").write_text(yaml.safe_dump(TASK))
    rows = [{"country": country, "choices": list(CAPITALS.values()), "answer": n} for n, country in enumerate(CAPITALS)]
    (folder / "tasks/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    check = {"type": "lm_eval", "tasks": ["capitals"], "task_files": "./tasks", "min_score": 0.5}
    values = {"kind": "evaluate", "name": "harness", "model": f"artifact:{model.id}", "checks": [check]}
    (folder / "job.yaml").write_text(yaml.safe_dump(values))
    return folder / "job.yaml"
