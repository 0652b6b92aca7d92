"""bf16 on a processor that cannot multiply it: computed in fp32, saved as the spec says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.training_jobs import ONE, small_job, small_spec, write_tokenizer
from torch import distributed as dist
from torch import nn
from transformers import LlamaForCausalLM

from rayloom.models import processor
from rayloom.train import precision
from rayloom.train.loop.loop import train
from rayloom.train.loop.run_log import read_log
from rayloom.train.precision import computing_precision
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import size_of_architecture


def on_a_processor(monkeypatch: pytest.MonkeyPatch, multiplies: bool) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: multiplies)


def test_only_bf16_on_such_a_cpu_is_computed_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_processor(monkeypatch, multiplies=False)
    assert computing_precision(small_spec(precision="bf16"), on_gpu=False) == "fp32"
    assert computing_precision(small_spec(precision="bf16"), on_gpu=True) == "bf16"
    assert computing_precision(small_spec(precision="fp32"), on_gpu=False) == "fp32"
    assert computing_precision(small_spec(precision="bf16", sharding={"zero_stage": 1}), on_gpu=False) == "fp32"
    on_a_processor(monkeypatch, multiplies=True)
    assert computing_precision(small_spec(precision="bf16"), on_gpu=False) == "bf16"


def losses(folder: Path, **changes: object) -> list[float]:
    folder.mkdir(exist_ok=True)
    job = small_job(folder, num_steps=6, **changes)
    train(job, ONE, lambda _: None)
    return [event["loss"] for event in read_log(job.log) if event["event"] == "step"]


def test_the_losses_are_those_of_fp32_and_the_result_is_in_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for name, multiplies in (("converts", False), ("multiplies", True)):
        on_a_processor(monkeypatch, multiplies)
        found[name] = losses(tmp_path / name, precision="bf16")
        out = tmp_path / name / "out"
        assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
        with safe_open(out / "model.safetensors", "pt") as tensors:
            assert {tensors.get_tensor(key).dtype for key in tensors.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert found["converts"] == losses(tmp_path / "fp32", precision="fp32")
    assert found["multiplies"] != found["converts"]
    assert found["multiplies"] == pytest.approx(found["converts"], abs=0.02)


def test_the_plan_counts_what_is_really_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec(precision="bf16")
    assert spec.architecture is not None
    size = size_of_architecture(spec.architecture, 67)
    on_a_processor(monkeypatch, multiplies=True)
    half = memory_per_device(spec, size)
    on_a_processor(monkeypatch, multiplies=False)
    assert memory_per_device(spec, size) == memory_per_device(small_spec(precision="fp32"), size)
    assert memory_per_device(spec, size).weights == 2 * half.weights


def test_weights_computed_in_fp32_come_back_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(8, 8, dtype=torch.bfloat16)
    before = layer.weight.detach().clone()
    for multiplies, computed in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(processor, "multiplies_bf16", lambda multiplies=multiplies: multiplies)
        with processor.weights_in_fast_precision(layer):
            assert layer.weight.dtype == computed
        assert layer.weight.dtype == torch.bfloat16
        assert torch.equal(layer.weight, before)


def write_base_in_bf16(folder: Path) -> None:
    small_job(folder.parent.parent)
    LlamaForCausalLM.from_pretrained(folder.parent / "teacher", dtype=torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder)


def test_zero_computes_a_bf16_base_in_fp32_as_the_plain_engine_does(tmp_path: Path) -> None:
    found = {}
    for stage in (0, 2):
        folder = tmp_path / str(stage)
        folder.mkdir()
        write_base_in_bf16(folder / "data" / "base")
        found[stage] = losses(
            folder, architecture=None, base="./base", precision="fp32", sharding={"zero_stage": stage}
        )
    dist.destroy_process_group()  # which DeepSpeed needs even for one worker
    assert found[2] == pytest.approx(found[0], abs=2e-5)
