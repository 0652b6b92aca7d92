"""What `plan` says of memory, against what training holds: the most that torch's allocator has given out at once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.artifacts import Folder
from support.models import small_config, write_model
from support.preferences import BAD, GOOD, spec_of, write
from support.tasks import FILLERS, write_encoder, write_jsonl
from support.training_jobs import ONE, VOCABULARY, small_job, small_spec
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaForCausalLM

from rayloom.models.responders.subject import Subject
from rayloom.specs.train import TrainSpec
from rayloom.train.job import TrainJob
from rayloom.train.loop.loop import train
from rayloom.train.prepare import job_of
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import size_of_job
from rayloom.train.weights.model import build_model

SIZES = {"num_layers": 6, "hidden_size": 256, "num_heads": 4, "max_positions": 256}
ROWS: dict[str, Any] = {
    "sequence_length_tokens": 128,
    "micro_batch_sequences": 8,
    "global_batch_tokens": 1024,
    "num_steps": 3,
    "data": {"type": "conversations", "sources": [{"dataset": "./x", "format": "alpaca"}]},
}
"""Beside what these hold, what the estimate leaves out is small: what one operation needs while it runs."""


class Ledger:
    """Bytes of the tensors that a run has made before its first step, and the most that the steps add to them."""

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._others = tensors_alive()
        self._held: int | None = None

    def is_asked_at_each_step(self) -> bool:
        """For the loop's `should_stop`; never true."""
        if self._held is None:
            others = {tensor.untyped_storage()._cdata for tensor in self._others}
            storages = [tensor.untyped_storage() for tensor in tensors_alive()]
            sizes = {storage._cdata: storage.nbytes() for storage in storages if storage._cdata not in others}
            self._held = sum(sizes.values())
            self._profile.start()
        return False

    def peak(self) -> int:
        self._profile.stop()
        assert self._held is not None
        results: Any = self._profile.profiler
        events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
        held = most = self._held
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            most = max(most, held)
        return most


def tensors_alive() -> list[torch.Tensor]:
    gc.collect()
    return [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]


def measured(job: TrainJob) -> int:
    ledger = Ledger()
    train(job, ONE, lambda _: None, ledger.is_asked_at_each_step)
    return ledger.peak()


def llama(folder: Path, vocabulary_size: int = VOCABULARY) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_key_value_heads": 2}
    config = small_config(vocabulary_size, **sizes, max_position_embeddings=256)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


FRESH: dict[str, dict[str, Any]] = {
    "decoder in fp32": {"precision": "fp32"},
    "decoder in bf16": {"precision": "bf16"},
    "decoder, recomputed": {"precision": "bf16", "activation_checkpointing": True, "micro_batch_sequences": 32},
    "decoder, ZeRO 2": {"precision": "bf16", "sharding": {"zero_stage": 2}},
    "decoder, ZeRO 3": {"precision": "bf16", "sharding": {"zero_stage": 3}},
    "encoder": {"architecture": {"type": "encoder", **SIZES}},
    "encoder-decoder": {
        "architecture": {"type": "encoder-decoder", "num_layers": 4, "hidden_size": 256, "num_heads": 4}
    },
}


def some_now(names: Iterable[str], *now: str) -> list[Any]:
    """The names, of which `make test` tries those that differ most in what they hold, and `make test-full` all."""
    return [name if name in now else pytest.param(name, marks=pytest.mark.full) for name in names]


@pytest.mark.parametrize(
    "name", some_now(FRESH, "decoder in bf16", "decoder, recomputed", "decoder, ZeRO 3", "encoder", "encoder-decoder")
)
def test_a_fresh_model_takes_what_the_plan_says(tmp_path: Path, name: str) -> None:
    changes = {"architecture": {"type": "decoder", **SIZES}} | ROWS | FRESH[name]
    changes.pop("data")
    changes["global_batch_tokens"] = changes["micro_batch_sequences"] * changes["sequence_length_tokens"]
    job = small_job(tmp_path, **changes)
    assert memory_per_device(job.spec, size_of_job(job)).total == pytest.approx(measured(job), rel=0.15)


METHODS: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "lora": (llama, {"adapter": {"type": "lora", "rank": 8}}),
    "lora with dropout": (llama, {"adapter": {"type": "lora", "rank": 8, "dropout": 0.1}}),
    "dora": (llama, {"adapter": {"type": "lora", "rank": 8, "weight_decomposed": True}}),
    "nf4": (llama, {"adapter": {"type": "lora", "rank": 8, "quantised_base": "nf4"}}),
    "int8": (llama, {"adapter": {"type": "lora", "rank": 8, "quantised_base": "int8"}}),
    "bottleneck": (llama, {"adapter": {"type": "bottleneck", "size": 32}}),
    "prompt": (llama, {"adapter": {"type": "prompt", "num_virtual_tokens": 32}}),
    "p_tuning": (llama, {"adapter": {"type": "p_tuning", "num_virtual_tokens": 32}}),
    "prefix": (llama, {"adapter": {"type": "prefix", "num_virtual_tokens": 32}}),
    "ia3": (llama, {"adapter": {"type": "ia3"}}),
    "parts": (llama, {"adapter": {"type": "parts", "parts": ["attention"]}}),
    "large vocabulary": (partial(llama, vocabulary_size=32768), {}),
    "large vocabulary, lora": (partial(llama, vocabulary_size=32768), {"adapter": {"type": "lora"}}),
}


@pytest.mark.parametrize("name", some_now(METHODS, "lora", "nf4", "prompt", "large vocabulary"))
def test_a_base_takes_what_the_plan_says(tmp_path: Path, name: str) -> None:
    write, changes = METHODS[name]
    base = tmp_path / "base"
    write(base)
    spec = small_spec(**(ROWS | {"architecture": None, "base": str(base), "precision": "bf16"} | changes))
    job = replace(
        small_job(tmp_path),
        spec=spec,
        base=base,
        num_rows=ROWS["num_steps"] * spec.global_batch_sequences,
        micro_batch_sequences=spec.micro_batch_sequences,
    )
    size = size_of_job(job)
    trained = sum(p.numel() for p in build_model(spec, base, job.tokenizer).parameters() if p.requires_grad)
    assert size.trained == trained
    assert memory_per_device(spec, size).total == pytest.approx(measured(job), rel=0.15)


@pytest.mark.parametrize("hidden_states_weight", [None, 1.0])
def test_a_taught_student_takes_what_the_plan_says(tmp_path: Path, hidden_states_weight: float | None) -> None:
    """Half of the base's layers learn from all of them; the states of both are held where they are compared."""
    base = tmp_path / "base"
    llama(base)
    teacher = {"model": str(base), "hidden_states_weight": hidden_states_weight}
    changes = {"architecture": None, "base": str(base), "precision": "bf16", "keep_layers": 3, "teacher": teacher}
    spec = small_spec(**(ROWS | changes))
    job = replace(
        small_job(tmp_path),
        spec=spec,
        base=base,
        teacher=Subject("teacher", "base", base),
        num_rows=ROWS["num_steps"] * spec.global_batch_sequences,
        micro_batch_sequences=spec.micro_batch_sequences,
    )
    assert memory_per_device(spec, size_of_job(job)).total == pytest.approx(measured(job), rel=0.15)


@pytest.mark.parametrize("adapter", some_now(("none", "lora", "bitfit", "bottleneck"), "none"))
def test_a_task_takes_what_the_plan_says(tmp_path: Path, adapter: str) -> None:
    sizes = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
    base = write_encoder(tmp_path / "base", **sizes)
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(FILLERS, 62)) for _ in range(60)]
    write_jsonl([{"text": text, "label": row % 2} for row, text in enumerate(texts)], tmp_path / "data/x.jsonl")
    values = {
        "kind": "train",
        "name": "tuned",
        "base": "./base",
        "task": {"type": "text_classification", "labels": ["no", "yes"]},
        "adapter": {"type": adapter},
        "data": {
            "type": "labelled",
            "sources": [{"dataset": "./data", "read": {"type": "table", "names": {"0": "no", "1": "yes"}}}],
            "heldout_rows": 10,
        },
        "sequence_length_tokens": 64,
        "micro_batch_sequences": 16,
        "global_batch_tokens": 16 * 64,
        "num_epochs": 1,
        "learning_rate": 1e-3,
    }
    (tmp_path / "work").mkdir()
    parents: Any = {"base": Folder(base), "data.sources.0.dataset": Folder(tmp_path / "data")}
    job = job_of(TrainSpec.model_validate(values), parents, tmp_path / "work", tmp_path / "out")
    size = size_of_job(job)
    sizes = [(p.numel(), p.requires_grad) for p in build_model(job.spec, job.base, job.tokenizer).parameters()]
    assert size.parameters == sum(count for count, _ in sizes)
    assert size.trained == sum(count for count, is_trained in sizes if is_trained)
    assert memory_per_device(job.spec, size).total == pytest.approx(measured(job), rel=0.15)


@pytest.mark.parametrize("adapter", some_now(("none", "lora"), "lora"))
def test_preferences_take_what_the_plan_says(tmp_path: Path, adapter: str) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "vocab_size": 32768}
    write_model(tmp_path / "base", **sizes)
    answers = {"chosen": " ".join([GOOD] * 14), "rejected": " ".join([BAD] * 14)}
    write([{"prompt": f"Tell me {n} jokes"} | answers for n in range(40)], tmp_path / "data")
    rows = {"sequence_length_tokens": 152, "micro_batch_sequences": 8, "global_batch_tokens": 8 * 152, "num_steps": 3}
    spec = spec_of({"type": "dpo"}, adapter={"type": adapter}, precision="bf16", **rows)
    (tmp_path / "work").mkdir()
    parents: Any = {"base": Folder(tmp_path / "base"), "data.sources.0.dataset": Folder(tmp_path / "data")}
    job = job_of(spec, parents, tmp_path / "work", tmp_path / "out")
    assert memory_per_device(spec, size_of_job(job)).total == pytest.approx(measured(job), rel=0.15)
