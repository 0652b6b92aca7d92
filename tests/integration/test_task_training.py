"""The one loop learns every task, and what it publishes says the same when it is loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.artifacts import Folder
from support.tasks import (
    entity_rows,
    question_rows,
    review_rows,
    translation_rows,
    write_encoder,
    write_encoder_decoder,
    write_jsonl,
)
from support.training_jobs import ONE
from transformers import AutoModelForSequenceClassification

from rayloom.errors import InputError
from rayloom.evaluate.checks.task import judge
from rayloom.models.responders.responder import Predictor
from rayloom.models.responders.subject import Subject
from rayloom.models.task_models import load_task_model
from rayloom.score.task_batches import task_batch
from rayloom.score.task_loss import TaskLoss
from rayloom.specs.train import TrainSpec
from rayloom.text.labelled.dataset import EXAMPLES_NAME
from rayloom.text.labelled.examples import Example, read_examples
from rayloom.train.job import TrainJob
from rayloom.train.loop.loop import train
from rayloom.train.loop.run_log import read_log
from rayloom.train.objectives.task import class_weights
from rayloom.train.prepare import job_of

REVIEWS = {"type": "text_classification", "labels": ["no", "yes"]}
ENTITIES = {"type": "token_classification", "entities": ["person", "place"], "class_weights": "balanced"}
QUESTIONS = {"type": "question_answering"}
ROWS: dict[str, tuple[Any, dict[str, Any]]] = {
    "text_classification": (review_rows, {"type": "table", "names": {"0": "no", "1": "yes"}}),
    "token_classification": (entity_rows, {"type": "spans"}),
    "question_answering": (question_rows, {"type": "questions"}),
    "sequence_to_sequence": (translation_rows, {"type": "pairs"}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def spec_of(of: dict[str, Any], **changes: Any) -> TrainSpec:
    values: dict[str, Any] = {
        "kind": "train",
        "name": "tuned",
        "base": "./base",
        "task": of,
        "data": {
            "type": "labelled",
            "sources": [{"dataset": "./data", "read": ROWS[of["type"]][1]}],
            "heldout_rows": 24,
        },
        "sequence_length_tokens": 32,
        "micro_batch_sequences": 16,
        "global_batch_tokens": 16 * 32,
        "num_steps": 30,
        "learning_rate": 5e-3,
        "precision": "fp32",
        "schedule": {"type": "linear", "warmup_steps": 3},
    }
    return TrainSpec.model_validate(values | changes)


def trained(spec: TrainSpec, base: Path, folder: Path) -> TrainJob:
    assert spec.task is not None
    write_jsonl(ROWS[spec.task.type][0](200), folder / "data/x.jsonl")
    (folder / "work").mkdir()
    parents: Any = {"base": Folder(base), "data.sources.0.dataset": Folder(folder / "data")}
    job = job_of(spec, parents, folder / "work", folder / "out")
    train(job, ONE, lambda event: None)
    return job


def predicted(job: TrainJob, subject: Subject) -> tuple[list[Example], dict[str, Any]]:
    examples = list(read_examples(job.heldout["heldout"] / EXAMPLES_NAME))
    predictor = Predictor.of(subject)
    return examples, judge(predictor.task, examples, predictor.predict(examples, 7)).metrics


@pytest.mark.parametrize("task", [REVIEWS, ENTITIES, QUESTIONS], ids=lambda task: task["type"])
def test_a_task_is_learned_and_what_was_measured_is_what_is_predicted(
    task: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    job = trained(spec_of(task, num_steps=60 if task is QUESTIONS else 30), base, tmp_path)
    events = [event for event in read_log(job.log) if event["event"] == "heldout"]
    assert events[-1]["accuracy"] > 0.9 > events[0]["accuracy"]
    _, metrics = predicted(job, Subject("model", "tuned", job.out))
    assert metrics["score"] > 0.9
    low, high = metrics["interval"]
    assert low <= metrics["score"] <= high
    if task is not QUESTIONS:  # whose words are not its tokens
        assert events[-1]["score"] == pytest.approx(metrics["score"], abs=1e-5)
    if task is REVIEWS:
        assert metrics["accuracy"] == pytest.approx(events[-1]["accuracy"])
        plain = AutoModelForSequenceClassification.from_pretrained(job.out)
        assert plain.config.id2label == {0: "no", 1: "yes"}


def test_training_stops_by_the_score_and_keeps_the_best_weights(base: Path, tmp_path: Path) -> None:
    stopping = {"by": "score", "patience": 2}
    job = trained(spec_of(ENTITIES, num_steps=90, evaluate_every_steps=5, early_stopping=stopping), base, tmp_path)
    log = list(read_log(job.log))
    found = {event["step"]: event["score"] for event in log if event["event"] == "heldout" and event["step"]}
    finished = log[-1]
    assert finished["event"] == "finished"
    assert finished["step"] == finished["best_step"] + 10 < 90
    assert found[finished["best_step"]] >= max(found.values()) - 0.001
    _, metrics = predicted(job, Subject("model", "tuned", job.out))
    assert metrics["score"] == pytest.approx(found[finished["best_step"]], abs=1e-5)


@pytest.mark.parametrize("method", ["lora", "bottleneck", "prefix", "prompt", "p_tuning", "bitfit", "ia3"])
def test_an_adapter_brings_its_head_and_whatever_else_the_base_had_not(method: str, base: Path, tmp_path: Path) -> None:
    """The base has no pooler: a fresh one that is not saved would be another at each loading."""
    job = trained(spec_of(REVIEWS, adapter={"type": method}, num_steps=3), base, tmp_path)
    measured = [event for event in read_log(job.log) if event["event"] == "heldout"][-1]
    torch.manual_seed(1)
    subject = Subject("model", "tuned", base, job.out)
    assert subject.task is not None
    objective_rows = [row for of_one in _rows(job, subject) for row in of_one]
    batch = task_batch(objective_rows, "label", 0)
    with torch.no_grad():
        loss = float(TaskLoss(subject.task_model, "label")(batch)) / batch.num_labels
    assert loss == pytest.approx(measured["loss"], abs=1e-5)


def _rows(job: TrainJob, subject: Subject) -> Any:
    examples = list(read_examples(job.heldout["heldout"] / EXAMPLES_NAME))
    return Predictor.of(subject).encoder.rows(examples)


@pytest.mark.parametrize("adapter", [{"type": "none"}, {"type": "lora", "rank": 32}], ids=["whole", "lora"])
def test_an_encoder_decoder_learns_to_write(adapter: dict[str, Any], tmp_path: Path) -> None:
    base = write_encoder_decoder(tmp_path / "base")
    task = {"type": "sequence_to_sequence", "max_target_tokens": 8}
    steps = 150 if adapter["type"] == "none" else 60
    job = trained(spec_of(task, adapter=adapter, num_steps=steps, learning_rate=5e-3), base, tmp_path)
    before, *_, after = [event for event in read_log(job.log) if event["event"] == "heldout"]
    assert after["loss"] < before["loss"] - 1
    is_whole = adapter["type"] == "none"
    subject = Subject("model", "tuned", job.out if is_whole else base, None if is_whole else job.out)
    examples, metrics = predicted(job, subject)
    assert metrics["score_name"] == "chrF"
    assert {"bleu", "rouge_l", "chrf"} <= set(metrics)
    if is_whole:
        assert metrics["score"] > 0.4  # one of six words at each of three places; by chance it is under 0.2
        (prediction,) = Predictor.of(subject).predict(examples[:1], 1)
        assert len(prediction.labels[0].split()) == 3


def test_a_model_without_the_tasks_head_is_refused(base: Path) -> None:
    task = spec_of(REVIEWS).task
    assert task is not None
    with pytest.raises(InputError, match=r"no weights for .*classifier"):
        load_task_model(base, None, task)


def test_rare_classes_weigh_more_and_weights_count_in_training_only() -> None:
    task = spec_of(REVIEWS | {"class_weights": "balanced"}).task
    assert task is not None
    assert class_weights(task, {"no": 30, "yes": 10}) == (40 / 60, 2.0)
    assert class_weights(task, {"no": 30}) == (1.0, 1.0)
    named = spec_of(REVIEWS | {"class_weights": {"yes": 3}}).task
    assert named is not None
    assert class_weights(named, {}) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": None}, "such data needs a task"),
        ({"data": {"type": "corpus", "corpus": "artifact:x"}}, "a task other than reward needs data of type labelled"),
        ({"task": REVIEWS | {"labels": ["a", "a"]}}, "more than once"),
        ({"task": REVIEWS | {"class_weights": {"maybe": 2}}}, "which is no label"),
        ({"task": REVIEWS | {"multiple": True, "label_smoothing": 0.1}}, "one label's probability"),
        (
            {"task": {"type": "sequence_to_sequence"}, "evaluate_every_steps": 5, "early_stopping": {"by": "score"}},
            "tasks with labels and for preferences",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec_of(REVIEWS, **changes)


def test_a_task_is_learned_with_sharded_weights(base: Path, tmp_path: Path) -> None:
    job = trained(spec_of(REVIEWS, sharding={"zero_stage": 3}), base, tmp_path)
    events = [event for event in read_log(job.log) if event["event"] == "heldout"]
    assert events[-1]["accuracy"] > 0.9
    _, metrics = predicted(job, Subject("model", "tuned", job.out))
    assert metrics["accuracy"] == pytest.approx(events[-1]["accuracy"])
