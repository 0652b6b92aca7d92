"""A training run's artifact without the training: a real LoRA adapter with random values, and real held-out rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.files import matching_files
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.specs.base import JobSpec
from rayloom.specs.train import TrainSpec
from rayloom.text.conversations.dataset import prepare
from rayloom.text.conversations.render import Renderer

SEQUENCE_LENGTH = 512


def train_spec(name: str, base: Artifact, instructions: Artifact, **changes: Any) -> TrainSpec:
    source = {
        "dataset": f"artifact:{instructions.id}",
        "files": "**/alpaca_en_demo.json",
        "format": "alpaca",
        "max_row_tokens": 256,
        "limit_rows": 120,
    }
    values: dict[str, Any] = {
        "kind": "train",
        "name": name,
        "base": f"artifact:{base.id}",
        "data": {"type": "conversations", "sources": [source], "heldout_rows": 40},
        "adapter": {"type": "lora", "rank": 4},
        "sequence_length_tokens": SEQUENCE_LENGTH,
        "global_batch_tokens": SEQUENCE_LENGTH,
        "num_steps": 1,
        "learning_rate": 1e-4,
    }
    return TrainSpec.model_validate(values | changes)


def trained_adapter(
    store: Store,
    base: Artifact,
    instructions: Artifact,
    name: str = "tuned",
    seed: int = 0,
    change: Callable[[Path], None] = lambda _: None,
    **changes: Any,
) -> Artifact:
    """The artifact; `change` may spoil its files before it is published."""
    spec = train_spec(name, base, instructions, seed=seed, **changes)

    def stage(spec: JobSpec, build: Build) -> Outcome:
        assert isinstance(spec, TrainSpec)
        write_adapter(base.path, build.directory, seed)
        prepare(
            spec.data,  # type: ignore[arg-type]
            {"data.sources.0.dataset": matching_files(instructions.path, "**/alpaca_en_demo.json")},
            Renderer.of_model(base.path),
            spec.sequence_length_tokens,
            seed,
            build.directory,
        )
        change(build.directory)
        return Outcome("adapter")

    parents = {"base": base, "data.sources.0.dataset": instructions}
    return build(ResolvedJob(spec, 1, parents, Path.cwd()), store, stage)[0]


def write_adapter(base: Path, directory: Path, seed: int, **changes: Any) -> None:
    """A LoRA adapter on every linear layer whose update is random and small, with the base's tokenizer."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(**(settings | changes)))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    tuned.save_pretrained(str(directory))
    AutoTokenizer.from_pretrained(base).save_pretrained(str(directory))
