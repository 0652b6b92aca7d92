"""A task from job files: trained on Ray, evaluated beside a linear model, and used on a data set part by part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.tasks import entity_rows, write_encoder, write_jsonl

from rayloom.artifacts.store import Artifact, Store
from rayloom.commands.report import rendered
from rayloom.dispatch import load_job
from rayloom.dispatch import run as run_job

NAME = "artifact:tagger"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    write_encoder(folder / "encoder")
    write_jsonl(entity_rows(160), folder / "rows/x.jsonl")
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return Store(str(folder / "store"))


def made(folder: Path, store: Store, **values: Any) -> Artifact:
    file = folder / f"{values['name']}.yaml"
    file.write_text(yaml.safe_dump(values))
    return run_job(load_job(file), store)[0]


@pytest.fixture(scope="module")
def tagger(folder: Path, store: Store) -> Artifact:
    return made(
        folder,
        store,
        kind="train",
        name="tagger",
        base="./encoder",
        task={"type": "token_classification", "entities": ["person", "place"]},
        data={"type": "labelled", "sources": [{"dataset": "./rows", "read": {"type": "spans"}}], "heldout_rows": 24},
        sequence_length_tokens=32,
        micro_batch_sequences=16,
        global_batch_tokens=512,
        num_steps=40,
        learning_rate=5e-3,
        precision="fp32",
    )


def test_a_trained_task_is_evaluated_with_its_predictions_and_a_report(
    folder: Path, store: Store, tagger: Artifact
) -> None:
    assert tagger.manifest.headline.startswith("heldout score")
    check = {"type": "task", "rows_of": NAME, "linear_baseline": True, "min_score": 0.9}
    report = made(
        folder,
        store,
        kind="evaluate",
        name="report",
        model="artifact:tagger",
        baseline="artifact:tagger",
        checks=[check],
    )
    found = report.manifest.metrics["checks"]["task"]
    assert found["model"]["score_name"] == "entity F1"
    assert set(found["model"]["by_class"]) == {"person", "place"}
    assert found["difference"] == 0.0
    assert 0.0 <= found["model"]["linear_baseline"]["score"] <= 1.0
    said = [json.loads(line) for line in (report.path / "predictions.jsonl").read_text().splitlines()]
    assert len(said) == 2 * 24
    assert {"person", "place"} == {entity.partition(":")[0] for row in said for entity in row["expected"]}
    page = rendered(store, report.manifest)
    assert "linear model on the same rows" in page
    assert "95 % interval" in page


def test_a_data_set_is_predicted_on_ray_and_a_bad_row_is_kept_with_its_reason(
    folder: Path, store: Store, tagger: Artifact
) -> None:
    rows = [*entity_rows(20, seed=1), {"text": "  "}, {"body": "x"}]
    write_jsonl(rows, folder / "new/x.jsonl")
    values = {"kind": "predict", "model": NAME, "data": "./new", "rows_per_part": 8}
    answered = made(folder, store, name="answered", **values)
    assert answered.manifest.metrics["num_failed"] == 2
    good = [json.loads(line) for line in (answered.path / "predictions.jsonl").read_text().splitlines()]
    assert [row["origin"] for row in good] == [f"x.jsonl row {n}" for n in range(1, 21)]
    want = [[(e["start"], e["end"], e["label"]) for e in row["entities"]] for row in rows[:20]]
    got = [[(s["start"], s["end"], s["label"]) for s in row["spans"]] for row in good]
    assert sum(w == g for w, g in zip(want, got, strict=True)) >= 18
    failed = [json.loads(line) for line in (answered.path / "failed.jsonl").read_text().splitlines()]
    assert [row["failed"].partition(":")[0] for row in failed] == ["empty_text", "missing_column"]
