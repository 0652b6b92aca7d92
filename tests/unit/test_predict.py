"""Predictions: every row answered or failed with its reason, parts resumed, one bad row alone, the command."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import made
from support.tasks import review_rows, write_encoder, write_jsonl
from transformers import AutoModelForSequenceClassification

from rayloom.artifacts.build import Build
from rayloom.artifacts.store import Artifact, Store
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.commands import predict as command
from rayloom.errors import InputError, QualityError
from rayloom.evaluate.prediction import run as stage
from rayloom.evaluate.prediction.parts import (
    FAILED_FILE,
    PREDICTIONS_FILE,
    Parts,
    joined,
    read_part,
    write_answers,
    write_parts,
)
from rayloom.evaluate.prediction.plan import plan, sections
from rayloom.models.responders.responder import respond_to_each
from rayloom.models.task_models import save_task
from rayloom.specs.predict import PredictSpec
from rayloom.specs.training.tasks import TextClassification
from rayloom.text.labelled.examples import ExampleError

TASK = TextClassification(type="text_classification", labels=("no", "yes"))


def write_tagger(folder: Path) -> None:
    """A model for a task that has learned nothing."""
    torch.manual_seed(0)
    base = write_encoder(folder)
    model = AutoModelForSequenceClassification.from_pretrained(base, id2label={0: "no", 1: "yes"})
    model.save_pretrained(folder)
    save_task(TASK, 32, folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def tagger(store: Store) -> Artifact:
    return made(store, "tagger", "model", write_tagger)


def spec(**changes: Any) -> PredictSpec:
    values = {"kind": "predict", "name": "p", "model": "artifact:tagger", "data": "./x", "rows_per_part": 4}
    return PredictSpec.model_validate(values | changes)


class Shouting:
    """A responder that cannot take the word boom."""

    def check(self, row: Mapping[str, Any]) -> None:
        if not row.get("text"):
            raise ExampleError("empty_text", "the text is empty")

    def respond(self, rows: Sequence[Mapping[str, Any]], micro_batch_sequences: int) -> list[dict[str, Any]]:
        if any("boom" in row["text"] for row in rows):
            raise RuntimeError("out of range")
        return [{"answer": row["text"].upper()} for row in rows]


def test_one_bad_row_costs_no_other_its_answer() -> None:
    rows = [{"text": text} for text in ("a", "boom", "", "b", "c")]
    found = respond_to_each(Shouting(), rows, 4)
    assert [row.get("answer") for row in found] == ["A", None, None, "B", "C"]
    assert found[1] == {"failed": "RuntimeError: out of range"}
    assert found[2] == {"failed": "empty_text: the text is empty"}


def test_parts_are_read_once_answered_once_and_joined_in_order(tmp_path: Path) -> None:
    file = write_jsonl([{"text": f"t{n}", "id": n, "other": "x"} for n in range(10)], tmp_path / "x.jsonl")
    parts = Parts(WorkCopy(Store(str(tmp_path)), "predicted", "v"))
    job = spec(keep=["id"], limit_rows=9)
    assert write_parts(job, [file], parts) == 9
    assert [len(read_part(parts.questions(number))) for number in range(3)] == [4, 4, 1]
    for number in (2, 0):
        rows = read_part(parts.questions(number))
        write_answers(rows, respond_to_each(Shouting(), rows, 2), parts, number)
    assert parts.missing(3) == [1]
    rows = read_part(parts.questions(1))
    write_answers(rows, [{"failed": "no"}, *respond_to_each(Shouting(), rows[1:], 2)], parts, 1)
    total, failed = joined(parts, 3, tmp_path)
    assert (total, [row["id"] for row in failed]) == (9, [5])
    good = [json.loads(line) for line in (tmp_path / PREDICTIONS_FILE).read_text().splitlines()]
    assert [row["answer"] for row in good] == [f"T{n}" for n in range(1, 10) if n != 5]
    assert good[0] == {"origin": "x.jsonl row 2", "id": 1, "text": "t1", "answer": "T1"}
    assert len((tmp_path / FAILED_FILE).read_text().splitlines()) == 1


def test_a_job_whose_parts_are_all_done_needs_no_worker_and_too_many_failures_stop_it(
    store: Store, tagger: Artifact, tmp_path: Path
) -> None:
    data = made(store, "rows", "dataset", lambda folder: write_jsonl(review_rows(6), folder / "x.jsonl"))
    parts = Parts(WorkCopy(store, spec().name, "v"))
    parts.copy.folder.mkdir(parents=True)
    build = Build(store, tmp_path, parts.copy.folder, {"model": tagger, "data": data}, tmp_path, "v")
    for number in range(-(-stage._num_rows(spec(), build, parts) // 4)):
        rows = read_part(parts.questions(number))
        write_answers(rows, [{"labels": ["yes"]}] * (len(rows) - 1) + [{"failed": "empty_text: x"}], parts, number)
    with pytest.raises(QualityError, match=r"2 of 6 rows failed.*x\.jsonl row 4: empty_text"):
        stage.run(spec(), build)
    outcome = stage.run(spec(max_failed_share=0.5), build)
    assert (outcome.metrics["num_failed"], outcome.metrics["failed"]) == (2, {"empty_text": 2})
    shown = sections(made(store, "answered", "dataset", lambda folder: joined(parts, 2, folder)))
    assert [section.title for section in shown] == ["Predictions", "Failed rows"]


def test_the_plan_names_a_column_that_is_not_there(store: Store, tagger: Artifact, tmp_path: Path) -> None:
    data = made(store, "rows", "dataset", lambda folder: write_jsonl(review_rows(6), folder / "x.jsonl"))
    parents = {"model": tagger, "data": data}
    assert plan(spec(), parents, tmp_path).problems == []
    (problem,) = plan(spec(text="body"), parents, tmp_path).problems
    assert "no column 'body'; it has text, label" in problem


def test_the_command_prints_a_label_for_each_text(
    store: Store, tagger: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "store_here", lambda: store)
    options = argparse.Namespace(
        artifact="tagger", text=["fine film", ""], pair=None, question=None, max_new_tokens=8, json=True
    )
    assert command.predict(options) == InputError.exit_code
    first, second = json.loads(capsys.readouterr().out)
    assert first["labels"][0] in ("no", "yes")
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert second["failed"].startswith("empty_text")
    options.json, options.text = False, ["fine film"]
    assert command.predict(options) == 0
    assert "fine film" in capsys.readouterr().out


def test_only_models_predict(store: Store) -> None:
    made(store, "rows", "dataset", lambda folder: write_jsonl(review_rows(2), folder / "x.jsonl"))
    with pytest.raises(InputError, match="only a model or adapter predicts"):
        command.answers("rows", [{"text": "x"}], store, 8)
