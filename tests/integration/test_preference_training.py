"""The one loop learns from judged answers by every method, from a reference that is computed once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.artifacts import Folder
from support.models import write_model
from support.preferences import BAD, GOOD, LENGTH, judged, pairs, spec_of, write
from support.training_jobs import ONE
from transformers import AutoModelForSequenceClassification

from rayloom.models.responders.answer_scorer import AnswerScorer
from rayloom.models.responders.subject import Subject
from rayloom.score.reward_loss import answers_of
from rayloom.text.conversations.preference_rows import REFERENCE_NAME, PreferenceRows
from rayloom.train.loop.loop import train
from rayloom.train.loop.run_log import read_log
from rayloom.train.prepare import job_of


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_model(folder, initializer_range=0.02)
    return folder


@pytest.mark.parametrize("method", ["dpo", "orpo", "simpo", "kto"])
def test_every_method_learns_what_people_preferred(method: str, base: Path, tmp_path: Path) -> None:
    spec = spec_of({"type": method})
    write(judged(24) if method == "kto" else pairs(24), tmp_path / "data")
    (tmp_path / "work").mkdir()
    parents: Any = {"base": Folder(base), "data.sources.0.dataset": Folder(tmp_path / "data")}
    job = job_of(spec, parents, tmp_path / "work", tmp_path / "out")
    train(job, ONE, lambda event: None)
    before, *_, after = [event for event in read_log(job.log) if event["event"] == "heldout"]
    assert after["loss"] < before["loss"] - 0.01
    assert after["accuracy"] == 1.0
    assert (job.train[0] / REFERENCE_NAME).exists() == (method in ("dpo", "kto"))
    if method == "dpo":
        assert before["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_a_reference_on_disk_is_not_computed_again(base: Path, tmp_path: Path) -> None:
    spec = spec_of({"type": "dpo"}, num_steps=1, adapter={"type": "none"})
    write(pairs(24), tmp_path / "data")
    (tmp_path / "work").mkdir()
    parents: Any = {"base": Folder(base), "data.sources.0.dataset": Folder(tmp_path / "data")}
    job = job_of(spec, parents, tmp_path / "work", tmp_path / "out")
    for folder in (*job.train, *job.heldout.values()):
        known = np.zeros((len(PreferenceRows(folder, LENGTH)), 2), np.float32)
        known[:, 0] = -1000.0
        np.save(folder / REFERENCE_NAME, known)
    train(job, ONE, lambda event: None)
    first = next(event for event in read_log(job.log) if event["event"] == "heldout")
    # The model finds the chosen answers far likelier than that reference says it did.
    assert first["loss"] < 1e-6


@pytest.mark.parametrize("stage", [2, 3])
def test_preferences_are_learned_with_sharded_weights(stage: int, base: Path, tmp_path: Path) -> None:
    spec = spec_of({"type": "dpo"}, sharding={"zero_stage": stage}, adapter={"type": "none"}, learning_rate=1e-3)
    write(pairs(24), tmp_path / "data")
    (tmp_path / "work").mkdir()
    parents: Any = {"base": Folder(base), "data.sources.0.dataset": Folder(tmp_path / "data")}
    job = job_of(spec, parents, tmp_path / "work", tmp_path / "out")
    train(job, ONE, lambda event: None)
    before, *_, after = [event for event in read_log(job.log) if event["event"] == "heldout"]
    assert before["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert after["loss"] < before["loss"] - 0.01


def test_a_process_reward_is_learned_from_judged_steps(base: Path, tmp_path: Path) -> None:
    task = {"type": "reward", "step_separator": "\n"}
    spec = spec_of({"type": "reward"}, preference=None, task=task, num_steps=20)
    steps = {"completions": [GOOD, BAD], "labels": [True, False]}
    write([{"prompt": f"Tell me {number} jokes", **steps} for number in range(24)], tmp_path / "data")
    (tmp_path / "work").mkdir()
    parents: Any = {"base": Folder(base), "data.sources.0.dataset": Folder(tmp_path / "data")}
    job = job_of(spec, parents, tmp_path / "work", tmp_path / "out")
    train(job, ONE, lambda event: None)
    before, *_, after = [event for event in read_log(job.log) if event["event"] == "heldout"]
    assert after["loss"] < before["loss"] - 0.05
    assert after["accuracy"] == 1.0
    scorer = AnswerScorer.of(Subject("model", "x", base, job.out))
    messages = [{"role": "user", "content": "Tell me 3 jokes"}, {"role": "assistant", "content": f"{GOOD}\n{BAD}"}]
    good, bad = scorer.respond([{"messages": messages}], 1)[0]["steps"]
    assert bad < 0.5 < good


@pytest.mark.parametrize(
    "changes",
    [{}, {"adapter": {"type": "none"}, "learning_rate": 1e-3, "sharding": {"zero_stage": 2}}],
    ids=["lora", "whole weights"],
)
def test_a_reward_model_is_learned_and_scores_alike_wherever_it_is_loaded(
    changes: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    spec = spec_of({"type": "reward"}, preference=None, task={"type": "reward"}, **changes)
    write([row | {"margin": 0.5} for row in pairs(24)], tmp_path / "data")
    (tmp_path / "work").mkdir()
    parents: Any = {"base": Folder(base), "data.sources.0.dataset": Folder(tmp_path / "data")}
    job = job_of(spec, parents, tmp_path / "work", tmp_path / "out")
    train(job, ONE, lambda event: None)
    before, *_, after = [event for event in read_log(job.log) if event["event"] == "heldout"]
    assert after["loss"] < before["loss"] - 0.05
    assert after["accuracy"] == 1.0
    is_whole = bool(changes)
    subject = Subject("model", "x", job.out if is_whole else base, None if is_whole else job.out)
    scorer = AnswerScorer.of(subject)
    heldout = PreferenceRows(job.heldout["heldout"], LENGTH)
    tokens = [answer for number in range(len(heldout)) for answer in answers_of(heldout.row(number))]
    leads = np.diff(np.reshape(scorer.rewards(tokens, 4), (-1, 2)))[:, 0] * -1
    assert float(np.logaddexp(0, 0.5 - leads).mean()) == pytest.approx(after["loss"], abs=1e-3)
    if is_whole:
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(job.out).eval()
        alone = loaded(torch.tensor(tokens[0].tolist())[None]).logits.item()
        assert alone == pytest.approx(scorer.rewards(tokens[:1], 1)[0], abs=1e-4)
