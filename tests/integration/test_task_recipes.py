"""Every recipe for a task runs as it stands but for its size: on rows of its own form, with a small fresh base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.artifacts import Folder
from support.models import write_model
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

from rayloom.dispatch import load_job
from rayloom.evaluate.checks.task import judge
from rayloom.models.responders.responder import predictor_of
from rayloom.models.responders.subject import Subject
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import is_whole_model
from rayloom.specs.training.labelled_data import LabelledSource, TableRows
from rayloom.specs.training.tasks import RelationExtraction, Task, TextClassification
from rayloom.text.labelled.dataset import EXAMPLES_NAME
from rayloom.text.labelled.examples import read_examples
from rayloom.train.loop.loop import train
from rayloom.train.prepare import job_of

RECIPES = Path(__file__).parents[2] / "jobs/recipes"
SMALL = (
    "sequence_length_tokens=64", "micro_batch_sequences=4", "global_batch_tokens=256", "num_epochs=null", "num_steps=2",
    "data.heldout_rows=6",
)  # fmt: skip


def task_recipes() -> list[Path]:
    jobs = {file: load_job(file).spec for file in sorted(RECIPES.rglob("*.yaml"))}
    return [file for file, spec in jobs.items() if isinstance(spec, TrainSpec) and _is_of_labels(spec)]


def _is_of_labels(spec: TrainSpec) -> bool:
    """Without those that retain what a stored base has learned, which needs that base's own rows and lineage."""
    return spec.task is not None and spec.data.type == "labelled" and not spec.retain


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    write_model(folder / "causal")
    causal, encoder = folder / "causal", write_encoder(folder / "encoder")
    return {"prompted": causal, "sequence_to_sequence": write_encoder_decoder(folder / "writer"), "other": encoder}


@pytest.mark.parametrize("file", task_recipes(), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_recipe_trains_and_its_model_answers(file: Path, bases: dict[str, Path], tmp_path: Path) -> None:
    job_file = load_job(file, SMALL)
    spec = job_file.spec
    assert isinstance(spec, TrainSpec)
    assert spec.data.type == "labelled"
    assert spec.task is not None
    base = bases.get(spec.task.type, bases["other"])
    parents: Any = {"base": Folder(base)}
    for number, source in enumerate(spec.data.sources):
        folder = tmp_path / f"rows-{number}"
        write_rows(source, spec.task, folder)
        parents[f"data.sources.{number}.dataset"] = Folder(folder)
    (tmp_path / "work").mkdir()
    job = job_of(spec, parents, tmp_path / "work", tmp_path / "out")
    train(job, ONE, lambda event: None)
    whole = is_whole_model(spec.adapter)
    subject = Subject("model", spec.name, job.out if whole else base, None if whole else job.out)
    examples = list(read_examples(job.heldout["heldout"] / EXAMPLES_NAME))
    predictor = predictor_of(subject)
    assert 0 <= judge(predictor.task, examples, predictor.predict(examples, 4)).metrics["score"] <= 1


def write_rows(source: LabelledSource, task: Task, folder: Path) -> None:
    """Rows in the form that the recipe reads, where its pattern finds them."""
    kind = source.read.type
    only = source.read.only if isinstance(source.read, TableRows) else {}
    file = folder / source.files.replace("**/", "").replace("/**", "/x.txt").replace("*", "x")
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "table":
        reviews = [(row["text"], str(row["label"]), *only.values()) for row in review_rows(40)]
        if file.suffix == ".jsonl":
            assert isinstance(task, TextClassification)
            assert isinstance(source.read, TableRows)
            labelled = [
                {"text": row["text"], source.read.label: task.labels[int(row["label"])]} for row in review_rows(40)
            ]
            write_jsonl(labelled, file)
            return
        file.write_text("".join(",".join(row) + "\n" for row in [("text", "label", *only), *reviews]))
    elif kind == "lines":
        file.write_text(
            "".join(f"{row['text']} {number}\n" for number, row in enumerate(review_rows(20, len(file.name))))
        )
    elif kind == "documents":
        for number, row in enumerate(review_rows(20, len(file.parent.name))):
            (file.parent / f"{number}.txt").write_text(f"{row['text']} {number}")
    elif kind == "conll":
        file.write_text("\n".join(_bio(row) for row in entity_rows(40)))
    elif kind == "tagged_words":
        names = np.random.default_rng(0).choice(list("张王李赵"), (40, 4))
        file.write_text("".join(f"{a}{b}/nr 去/v {c}{d}/ns 的/u 厂/nt\n" for a, b, c, d in names))
    elif kind == "questions":
        write_jsonl(question_rows(40), file)
    elif kind == "relations":
        write_jsonl(_relation_rows(task), file)
    else:
        assert kind == "pairs"
        pairs = [(row["source"], row["target"]) for row in translation_rows(40)]
        file.write_text("text,title\n" + "".join(f"{source},{target}\n" for source, target in pairs))


def _bio(row: dict[str, Any]) -> str:
    tags = {span["start"]: {"person": "B-person", "place": "B-geo-loc"}[span["label"]] for span in row["entities"]}
    lines, start = [], 0
    for word in row["text"].split(" "):
        lines.append(f"{word}\t{tags.get(start, 'O')}\n")
        start += len(word) + 1
    return "".join(lines)


def _relation_rows(task: Task) -> list[dict[str, Any]]:
    assert isinstance(task, RelationExtraction)
    rows = []
    for number, row in enumerate(entity_rows(40)):
        head, tail = ({"start": span["start"], "end": span["end"]} for span in row["entities"])
        label = task.labels[number % len(task.labels)]
        rows.append({"text": row["text"], "head": head, "tail": tail, "label": label})
    return rows
