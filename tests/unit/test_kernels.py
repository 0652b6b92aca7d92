"""Liger's kernels and float8: where they are refused, and that Liger's compute what transformers' layers compute."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.interpreted_kernels import DOCUMENTS, SHAPE
from support.models import tiny_llama
from support.training_jobs import small_spec

from rayloom.errors import InputError, ResourceError
from rayloom.specs.training.hardware import fleet_of
from rayloom.train.planning.fleet import problems
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import size_of_architecture
from rayloom.train.weights.kernels import LIGER_MODELS, check_device, check_kernels, missing_kernels

LIGER: dict[str, Any] = {"kernels": "liger", "workers": {"gpus_per_worker": 1}}
FLOAT8: dict[str, Any] = {"float8": "rowwise", "precision": "bf16", "workers": {"gpus_per_worker": 1}}
is_installed = importlib.util.find_spec("liger_kernel") is not None
needs_liger = pytest.mark.skipif(not is_installed, reason="liger-kernel is not installed: it is in the GPU lock only")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": {}}, "liger are for GPUs"),
        ({"compile": True}, "compile fuses what"),
        ({"activation_checkpointing": {"keep": "products"}}, "rotate in place: use every_layers"),
        ({"architecture": {"type": "decoder", "family": "gpt2", "max_positions": 32}}, "decoders of family llama"),
        ({"architecture": {"type": "encoder"}, "learning_rate": 1e-3}, "decoders of family llama"),
        ({"architecture": {"type": "decoder", "activation": "gelu", "max_positions": 32}}, "no gate of gelu"),
        ({"sharding": {"context": 2}, "workers": {"gpus_per_worker": 1, "num_workers": 2}}, "sharding.context"),
        ({"sharding": {"zero_stage": 3}}, "zero_stage 3: use stage 2"),
        ({"architecture": None, "base": "artifact:x", "adapter": {"type": "ia3"}}, "adapter ia3: use lora"),
    ],
)
def test_what_they_are_not_for_is_refused_with_what_is(changes: dict[str, Any], said: str) -> None:
    assert small_spec(**LIGER).kernels == "liger"
    with pytest.raises(ValidationError, match=said):
        small_spec(**LIGER | changes)


def test_a_base_of_another_kind_and_a_machine_without_them_are_refused() -> None:
    spec = small_spec(**LIGER)
    config = tiny_llama().config
    check_kernels(spec, config)
    config.hidden_act = "gelu"
    with pytest.raises(InputError, match="no gate of gelu"):
        check_kernels(spec, config)
    config.model_type = "gpt2"
    with pytest.raises(InputError, match="llama, mistral, qwen2, qwen3, not for gpt2"):
        check_kernels(spec, config)
    assert bool(missing_kernels(spec)) is not is_installed
    with pytest.raises(ResourceError, match="needs a GPU" if is_installed else "pip install --no-deps liger-kernel"):
        check_device(spec, torch.device("cpu"))
    check_device(small_spec(), torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": {}}, "float8 is for GPUs"),
        ({"precision": "fp32"}, "and precision bf16"),
        ({"architecture": None, "base": "artifact:x", "adapter": {"type": "lora"}}, "not for adapter lora"),
        ({"kernels": "liger"}, "kernels liger are for where they are not"),
        (
            {"sharding": {"tensor": 2}, "workers": {"gpus_per_worker": 1, "num_workers": 2}},
            "sharding.tensor: use zero_",
        ),
        ({"sharding": {"zero_stage": 3}}, "which zero_stage 3 frees: use stage 2"),
        ({"activation_checkpointing": {"keep": "products"}}, "sees no float8 products: use every_layers"),
        ({"architecture": {"type": "decoder", "family": "gpt2", "max_positions": 32}}, "gpt2 has none of"),
    ],
)
def test_what_float8_is_not_for_is_refused_with_what_is(changes: dict[str, Any], said: str) -> None:
    assert small_spec(**FLOAT8).float8 == "rowwise"
    with pytest.raises(ValidationError, match=said):
        small_spec(**FLOAT8 | changes)


def test_float8_is_refused_for_other_models_and_devices() -> None:
    spec = small_spec(**FLOAT8)
    config = tiny_llama().config
    check_kernels(spec, config)
    config.hidden_size = 72
    with pytest.raises(InputError, match="multiples of 16, and hidden_size is 72"):
        check_kernels(spec, config)
    config.hidden_size, config.num_local_experts = 64, 8
    with pytest.raises(InputError, match="mixture's experts are none"):
        check_kernels(spec, config)
    has_torchao = importlib.util.find_spec("torchao") is not None
    assert bool(missing_kernels(spec)) is not has_torchao
    with pytest.raises(ResourceError, match="needs a GPU" if has_torchao else "pip install --no-deps torchao"):
        check_device(spec, torch.device("cpu"))
    size = size_of_architecture(spec.architecture, 64)
    assert memory_per_device(spec, size) == memory_per_device(spec.model_copy(update={"float8": None}), size)
    said = "does not multiply in float8"
    assert any(said in problem for problem in problems(spec, size, fleet_of("A100-80GB")))
    assert not any(said in problem for problem in problems(spec, size, fleet_of("H100-80GB")))


def planned_less() -> int:
    """Bytes of activations that a layer keeps less, as `plan` has it."""
    names = {
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "feed_forward_size": "intermediate_size",
    }
    names |= {"hidden_size": "hidden_size", "num_key_value_heads": "num_key_value_heads"}
    architecture = {"type": "decoder", "max_positions": 16} | {ours: SHAPE[theirs] for ours, theirs in names.items()}
    tokens = sum(DOCUMENTS)
    facts = {"architecture": architecture, "sequence_length_tokens": tokens, "micro_batch_sequences": 1}
    planned = []
    for kernels in ("torch", "liger"):
        spec = small_spec(**LIGER | facts | {"global_batch_tokens": tokens, "kernels": kernels})
        planned.append(memory_per_device(spec, size_of_architecture(spec.architecture, 32)).activations)
    return planned[0] - planned[1]


@pytest.mark.full
@needs_liger
def test_losses_and_gradients_are_the_same_and_as_much_less_is_kept_as_planned() -> None:
    command = [sys.executable, "-m", "support.interpreted_kernels", *LIGER_MODELS]
    environment, tests = os.environ | {"TRITON_INTERPRET": "1"}, Path(__file__).parents[1]
    done = subprocess.run(command, env=environment, cwd=tests, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    for model_type, found in json.loads(done.stdout.splitlines()[-1]).items():
        assert found["loss_difference"] <= 1e-6 * found["loss"], model_type
        assert found["gradient_difference"] <= 1e-5, model_type
        assert not found["parameters_differ"], model_type
        assert not found["made_later"].startswith("Liger"), model_type
        plain, fused = found["kept_bytes"]
        features = SHAPE["hidden_size"]  # of norms that the plan leaves out: the last one, and Qwen3's of heads
        if model_type == "qwen3":
            features += SHAPE["head_dim"] * (SHAPE["num_attention_heads"] + SHAPE["num_key_value_heads"])
        assert plain - fused == planned_less() + 4 * features * sum(DOCUMENTS), model_type
