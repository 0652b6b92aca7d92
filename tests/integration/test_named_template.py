"""A base without a chat template: one is named, what it needs is added and trained, and the server will stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.artifacts import Folder
from support.models import write_model
from support.training_jobs import ONE
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayloom.errors import InputError
from rayloom.specs.train import TrainSpec
from rayloom.text.conversations.render import Renderer
from rayloom.train.job import TrainJob
from rayloom.train.loop.loop import train
from rayloom.train.loop.run_log import read_log
from rayloom.train.prepare import job_of


def job(folder: Path, template: str | None, **changes: Any) -> TrainJob:
    write_model(folder / "base", vocab_size=512)
    for name in ("chat_template.jinja", "generation_config.json"):
        (folder / "base" / name).unlink(missing_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    tokenizer.eos_token = "<s>"
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder / "base")
    rows = [{"instruction": f"Tell me {n}", "output": "Good morning!"} for n in range(12)]
    (folder / "data").mkdir()
    (folder / "data/x.json").write_text(json.dumps(rows))
    (folder / "work").mkdir()
    source = {"dataset": "./data", "format": "alpaca"}
    values: dict[str, Any] = {
        "kind": "train", "name": "named", "base": "./base",
        "data": {"type": "conversations", "sources": [source], "heldout_rows": 3, "template": template},
        "sequence_length_tokens": 64, "global_batch_tokens": 64, "num_steps": 2, "precision": "fp32",
    }  # fmt: skip
    parents: Any = {"base": Folder(folder / "base"), "data.sources.0.dataset": Folder(folder / "data")}
    return job_of(TrainSpec.model_validate(values | changes), parents, folder / "work", folder / "out")


def test_the_template_goes_with_the_model_and_its_end_of_turn_stops_the_server(tmp_path: Path) -> None:
    made = job(tmp_path, "gemma", embedding_noise=5)
    train(made, ONE, lambda event: None)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    (end,) = tokenizer("<end_of_turn>", add_special_tokens=False)["input_ids"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config.eos_token_id == end
    assert end in Renderer.of_model(tmp_path / "out").stop_tokens
    steps = [event for event in read_log(made.log) if event["event"] == "step"]
    # Nothing was asked for, so it is what whole weights usually take.
    assert max(event["learning_rate"] for event in steps) == pytest.approx(3e-5)


def test_an_adapter_cannot_bring_tokens_or_another_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"an adapter trains no embeddings|does not stop"):
        train(job(tmp_path, "chatml", adapter={"type": "lora"}), ONE, lambda event: None)


def test_without_a_template_the_fix_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no chat template.*data\.template \(chatml"):
        job(tmp_path, None)
