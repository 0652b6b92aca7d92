"""Judged answers: rows, losses against hand-worked numbers, a reference that is computed once, and learning."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import write_model
from pydantic import TypeAdapter, ValidationError
from tokenizers_for_tests import chatml
from training_jobs_for_tests import ONE
from transformers import AutoModelForCausalLM

from rayloom.errors import InputError
from rayloom.score.batches import causal_batch
from rayloom.score.preference_loss import Answers, PreferenceLoss, losses_of
from rayloom.specs.preferences import Preference, PreferenceData
from rayloom.specs.train import TrainSpec
from rayloom.text.preference_rows import REFERENCE_NAME, PreferenceRows, prepare_preferences
from rayloom.text.preview import documents
from rayloom.text.render import Renderer
from rayloom.train.log import read_log
from rayloom.train.loop import train
from rayloom.train.prepare import job_of

LENGTH = 128
GOOD, BAD = "Paris. Good morning!", "nine ten six"


@dataclass(frozen=True)
class Folder:
    """Stands for an artifact: only its path is looked at."""

    path: Path


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Tell me {n} jokes", "chosen": GOOD, "rejected": BAD} for n in range(count)]


def judged(count: int) -> list[dict[str, Any]]:
    said = ((GOOD, True), (BAD, False))
    return [
        {
            "messages": [
                {"role": "user", "content": f"Tell me {n} jokes"},
                {"role": "assistant", "content": said[n % 2][0]},
            ],
            "label": said[n % 2][1],
        }
        for n in range(count)
    ]


def write(rows: list[dict[str, Any]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.json").write_text(json.dumps(rows))
    return folder


def data(form: str = "prompt_chosen_rejected", **changes: Any) -> PreferenceData:
    values = {"type": "preferences", "sources": [{"dataset": "./x", "format": form}], "heldout_rows": 2}
    return PreferenceData.model_validate(values | changes)


def prepared(rows: list[dict[str, Any]], folder: Path, spec: PreferenceData, is_paired: bool = True) -> PreferenceRows:
    files = {"data.sources.0.dataset": [write(rows, folder) / "x.json"]}
    prepare_preferences(spec, files, Renderer(chatml()), LENGTH, 0, folder / "out", is_paired=is_paired)
    return PreferenceRows(folder / "out/train", LENGTH)


def preference(**values: Any) -> Any:
    return TypeAdapter(Preference).validate_python(values)


def test_a_pair_is_two_documents_of_which_only_the_answers_are_judged(tmp_path: Path) -> None:
    row = prepared(pairs(8), tmp_path, data()).row(0)
    tokenizer = chatml()
    parts = list(documents(row.row))
    said = [tokenizer.decode(row.row.tokens[part][row.row.trained[part]]) for part in parts]
    assert said == [f"{GOOD}<|im_end|>", f"{BAD}<|im_end|>"]
    prompts = [row.row.tokens[part][: int(row.row.trained[part].argmax())].tolist() for part in parts]
    assert prompts[0] == prompts[1]
    assert np.isnan(row.reference).all()


def test_earlier_answers_of_a_conversation_are_context_only(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Hello"},
        {"from": "gpt", "value": "Hello there."},
        {"from": "human", "value": "joke"},
    ]
    rows = [
        {"conversations": turns, "chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD}}
    ] * 6
    rows = [{**row, "conversations": [{"from": "human", "value": f"{n}"}, *turns[1:]]} for n, row in enumerate(rows)]
    row = prepared(rows, tmp_path, data("sharegpt")).row(0).row
    first = next(documents(row))
    assert chatml().decode(row.tokens[first][row.trained[first]]) == f"{GOOD}<|im_end|>"


def test_kto_rows_have_another_rows_answer_behind_their_own(tmp_path: Path) -> None:
    rows = prepared(judged(10), tmp_path, data("messages_label"), is_paired=False)
    assert sorted(set(rows.is_good.tolist())) == [False, True]
    row = rows.row(0)
    own = next(documents(row.row))
    said = chatml().decode(row.row.tokens[own][row.row.trained[own]])
    assert said == f"{GOOD if row.is_good else BAD}<|im_end|>"


def test_bad_rows_are_named_together(tmp_path: Path) -> None:
    rows = [*pairs(6), {"prompt": "x", "chosen": "a", "rejected": "a"}, {"prompt": "x", "chosen": "a"}]
    with pytest.raises(InputError) as raised:
        prepared(rows, tmp_path, data())
    assert "row 7 (same_answers)" in str(raised.value)
    assert "row 8 (missing_column): has no column rejected" in str(raised.value)
    with pytest.raises(InputError, match="longer than sequence_length_tokens"):
        prepared([{**row, "chosen": "very long " * 60} for row in pairs(6)], tmp_path / "long", data())


LOG_P = Answers(torch.tensor([[-4.0, -6.0]]), torch.tensor([[2.0, 4.0]]))
REFERENCE = torch.tensor([[-5.0, -5.0]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"type": "dpo", "beta": 0.5}, -math.log(1 / (1 + math.exp(-0.5 * (1 - -1))))),
        ({"type": "simpo", "beta": 2.0, "margin": 0.5}, math.log(1 + math.exp(-(2 * (-2 + 1.5) - 0.5)))),
        (
            {"type": "orpo", "weight": 0.5},
            2.0
            + 0.5 * math.log(1 + math.exp(-((-2 - math.log1p(-math.exp(-2))) - (-1.5 - math.log1p(-math.exp(-1.5)))))),
        ),
        # The other answer became less likely: its mean is below zero, so the point of reference is 0.
        ({"type": "kto", "beta": 0.5}, 1 - 1 / (1 + math.exp(-0.5 * 1))),
    ],
)
def test_losses_are_those_of_the_papers(values: dict[str, Any], expected: float) -> None:
    losses, _ = losses_of(preference(**values), LOG_P, REFERENCE, torch.tensor([True]))
    assert losses.tolist() == pytest.approx([expected], rel=1e-5)


def test_a_bad_answer_is_unlearned_by_kto() -> None:
    spec = preference(type="kto", beta=0.5, bad_weight=3.0)
    losses, margins = losses_of(spec, LOG_P, REFERENCE, torch.tensor([False]))
    assert losses.item() == pytest.approx(3 * (1 - 1 / (1 + math.exp(0.5))))
    assert margins.item() < 0


def test_log_probabilities_are_those_of_each_answer_alone(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    rows = prepared(pairs(8), tmp_path, data())
    found = PreferenceLoss(model, preference(type="dpo")).answers(
        causal_batch([rows.row(n).row for n in range(2)], padding_token=0)
    )
    for number in range(2):
        row = rows.row(number).row
        for place, part in enumerate(documents(row)):
            ids = torch.from_numpy(row.tokens[part])[None]
            log_p = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            labels = torch.from_numpy(row.trained[part][1:])
            assert found.log_p[number, place].item() == pytest.approx(log_p[labels].sum().item(), abs=1e-3)
            assert found.num_tokens[number, place] == labels.sum()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_model(folder, initializer_range=0.02)
    return folder


def spec_of(method: dict[str, Any], **changes: Any) -> TrainSpec:
    form = "messages_label" if method["type"] == "kto" else "prompt_chosen_rejected"
    values: dict[str, Any] = {
        "kind": "train", "name": "preferred", "base": "./base", "preference": method,
        "data": {"type": "preferences", "sources": [{"dataset": "./data", "format": form}], "heldout_rows": 4},
        "sequence_length_tokens": LENGTH, "micro_batch_sequences": 4, "global_batch_tokens": 4 * LENGTH,
        "num_steps": 6, "learning_rate": 3e-3, "precision": "fp32", "adapter": {"type": "lora"},
        "optimizer": {"type": "adamw", "weight_decay": 0},
    }  # fmt: skip
    return TrainSpec.model_validate(values | changes)


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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preference": None}, "such data needs a preference"),
        ({"data": {"type": "corpus", "corpus": "artifact:x"}}, "a preference needs data of type preferences"),
        ({"adapter": {"type": "prefix"}}, "a pair has two"),
        ({"preference": {"type": "kto"}, "micro_batch_sequences": 1}, "of 2 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec_of({"type": "dpo"}, **changes)
