"""The one loop trains a language model on a prompt; what it publishes is asked, measured and kept by that prompt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.artifacts import Folder
from support.models import made, write_model
from support.prompted import CLOZE, PROMPT, prompted_spec
from support.tasks import review_rows, write_encoder, write_jsonl
from support.training_jobs import ONE
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from rayloom.artifacts.store import Store
from rayloom.evaluate.checks.task import judge
from rayloom.export.model_folder import copy_companions
from rayloom.models.responders.prompted import PromptedModel
from rayloom.models.responders.prompted_rows import PromptedResponder
from rayloom.models.responders.responder import predictor_of, respond_to_each, responder_for
from rayloom.models.responders.subject import Subject
from rayloom.serve.replicas.engine_settings import predictor_settings
from rayloom.serve.replicas.predictor_replica import _loaded
from rayloom.specs.serve import ServedPredictor
from rayloom.specs.text_generation import Generation
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.prompted import PROMPT_FILE, SHOWN_FILE
from rayloom.text.labelled.dataset import EXAMPLES_NAME
from rayloom.text.labelled.examples import Example, read_examples
from rayloom.train.job import TrainJob
from rayloom.train.loop.loop import train
from rayloom.train.loop.run_log import read_log
from rayloom.train.prepare import job_of

BEHIND = PROMPT | {"scoring": {"type": "likelihood", "normalisation": "tokens"}}


def spec_of(prompt: dict[str, Any], **changes: Any) -> TrainSpec:
    """Long enough that words are learned."""
    longer: dict[str, Any] = {
        "num_steps": 40,
        "learning_rate": 5e-3,
        "precision": "fp32",
        "schedule": {"type": "linear", "warmup_steps": 3},
    }
    return prompted_spec(prompt, {"heldout_rows": 24}, **longer | changes)


def trained(spec: TrainSpec, base: Path, folder: Path, num_rows: int = 124) -> TrainJob:
    write_jsonl(review_rows(num_rows), folder / "data/x.jsonl")
    (folder / "work").mkdir()
    parents: Any = {"base": Folder(base), "data.sources.0.dataset": Folder(folder / "data")}
    job = job_of(spec, parents, folder / "work", folder / "out")
    train(job, ONE, lambda event: None)
    return job


def measured(job: TrainJob) -> list[dict[str, Any]]:
    return [event for event in read_log(job.log) if event["event"] == "heldout"]


def predicted(job: TrainJob, subject: Subject) -> dict[str, Any]:
    examples = list(read_examples(job.heldout["heldout"] / EXAMPLES_NAME))
    predictor = predictor_of(subject)
    return judge(predictor.task, examples, predictor.predict(examples, 5)).metrics


def test_an_encoder_learns_the_words_of_a_cloze(tmp_path: Path) -> None:
    job = trained(spec_of(CLOZE), write_encoder(tmp_path / "base"), tmp_path)
    before, after = measured(job)
    assert after["score"] > 0.9 > before["score"]
    subject = Subject("model", "tuned", job.out)
    assert predicted(job, subject)["score"] == pytest.approx(after["score"])
    assert subject.task is None and not (job.out / SHOWN_FILE).exists()
    AutoModelForMaskedLM.from_pretrained(job.out)
    # Asked by the prompt of a check or of a `predict` job, it says the same as by its own.
    own, asked = predictor_of(subject), PromptedModel(subject, spec_of(CLOZE).prompt)  # type: ignore[arg-type]
    rows = [{"text": "the film was lovely"}, {"text": "then it was dull"}]
    found = respond_to_each(responder_for(subject, Generation()), rows, 2)
    assert found == respond_to_each(PromptedResponder(asked), rows, 2)
    assert [answer["labels"] for answer in found] == [["yes"], ["no"]]
    assert own.task.labels == ("no", "yes")  # type: ignore[union-attr]
    # So it does behind /v1/classify, and where its weights are copied for another form of it.
    store = Store(str(tmp_path / "store"))
    copied = made(store, "tuned", "model", lambda folder: shutil.copytree(job.out, folder, dirs_exist_ok=True))
    served = ServedPredictor.model_validate({"name": "asked", "model": "artifact:tuned"})
    settings = predictor_settings(served, 0, {"predictors.0.model": copied}, store, 8)
    assert settings.task == "text_classification"
    assert respond_to_each(_loaded(settings), rows, 2) == found
    for name, with_prompt in (("kept", True), ("left", False)):
        (tmp_path / name).mkdir()
        copy_companions(job.out, tmp_path / name, with_prompt=with_prompt)
        assert (tmp_path / name / PROMPT_FILE).exists() == with_prompt


def test_a_decoder_learns_behind_demonstrations_by_lora_and_keeps_them(tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    prompt = BEHIND | {"demonstrations": {"num_rows": 2}}
    changes = {"adapter": {"type": "lora", "rank": 8}, "sequence_length_tokens": 128, "global_batch_tokens": 16 * 128}
    job = trained(spec_of(prompt, **changes, num_steps=6), tmp_path / "base", tmp_path)
    before, after = measured(job)
    assert after["loss"] < before["loss"]
    subject = Subject("model", "tuned", tmp_path / "base", job.out)
    assert predicted(job, subject)["score"] == pytest.approx(after["score"])
    kept = json.loads((job.out / PROMPT_FILE).read_text())
    assert kept["prompt"]["template"] == BEHIND["template"]
    shown = [Example.from_json(json.loads(line)) for line in (job.out / SHOWN_FILE).read_text().splitlines()]
    assert shown == list(read_examples(job.train[0] / EXAMPLES_NAME)) and len(shown) > 90


@pytest.mark.parametrize("adapter", ["lora", "prefix", "prompt", "bottleneck", "ia3"])
def test_what_training_measured_is_what_a_loaded_adapter_says(adapter: str, tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    job = trained(spec_of(BEHIND, adapter={"type": adapter}, num_steps=2), tmp_path / "base", tmp_path, 60)
    subject = Subject("model", "tuned", tmp_path / "base", job.out)
    assert predicted(job, subject)["score"] == pytest.approx(measured(job)[-1]["score"])
    loaded: Any = subject.model
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), torch.nn.Module) and loaded.config


def test_lora_on_an_encoder_is_loaded_for_a_cloze(tmp_path: Path) -> None:
    base = write_encoder(tmp_path / "base")
    job = trained(spec_of(CLOZE, adapter={"type": "lora", "rank": 16}, num_steps=60), base, tmp_path)
    before, after = measured(job)
    assert after["loss"] < before["loss"]
    assert predicted(job, Subject("model", "tuned", base, job.out))["score"] == pytest.approx(after["score"])


def test_training_stops_by_the_score_and_keeps_its_prompt(tmp_path: Path) -> None:
    stopping = {"by": "score", "patience": 1}
    spec = spec_of(CLOZE, num_steps=60, evaluate_every_steps=10, early_stopping=stopping)
    job = trained(spec, write_encoder(tmp_path / "base"), tmp_path)
    finished = list(read_log(job.log))[-1]
    best = {event["step"]: event["score"] for event in measured(job)}[finished["best_step"]]
    assert predicted(job, Subject("model", "tuned", job.out))["score"] == pytest.approx(best)
