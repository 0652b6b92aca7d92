"""Made-up judged answers, and jobs that learn from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from rayloom.models.task_models import save_task, task_model
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.tasks import RewardScoring
from support.models import write_model
from support.tokenizers import chatml

LENGTH = 128
GOOD, BAD = "Paris. Good morning!", "nine ten six"


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


REWARD = RewardScoring(type="reward")


def write_reward_model(folder: Path) -> None:
    """A reward model with random weights and a head of one number, as training saves it."""
    write_model(folder / "base")
    torch.manual_seed(0)
    model: Any = task_model(folder / "base", REWARD)[0]
    model.save_pretrained(folder)
    chatml().save_pretrained(folder)
    save_task(REWARD, LENGTH, folder)
