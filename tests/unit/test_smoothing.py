"""Smoothing: which norms feed which layers, and that a smoothed model computes what it did."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from support.models import tiny_llama
from transformers import GemmaConfig, GemmaForCausalLM, LlamaForCausalLM

from rayloom.export.schemes.calibration import observe
from rayloom.export.schemes.compressed import linear_layers
from rayloom.export.schemes.int8 import scales_with_its_weight, smooth
from rayloom.score.agreement import compare, logits_of
from rayloom.text.packed.shards import Row

ROWS = [[3, 17, 88, 200, 41, 9], [250, 7, 7, 61]]


class RandomRows:
    """Rows as a folder of shards has them."""

    def __len__(self) -> int:
        return 3

    def row(self, index: int) -> Row:
        tokens = np.random.default_rng(index).integers(0, 500, 20)
        return Row(tokens, np.ones(20, np.bool_), np.arange(20))


def seen_by(model: LlamaForCausalLM) -> Any:
    return observe(model, linear_layers(model), RandomRows())


def test_norms_are_found_with_the_layers_that_read_them() -> None:
    model = tiny_llama()
    seen = seen_by(model)
    assert len(seen.largest) == 14
    assert {norm: len(layers) for norm, layers in seen.readers.items()} == {
        f"model.layers.{number}.{norm}": count
        for number in (0, 1)
        for norm, count in (("input_layernorm", 3), ("post_attention_layernorm", 2))
    }
    assert seen.readers["model.layers.1.input_layernorm"][0] == "model.layers.1.self_attn.q_proj"


def test_a_norm_that_something_else_reads_is_left_alone() -> None:
    model = tiny_llama()
    attention = model.model.layers[0].self_attn
    inner = attention.forward
    attention.forward = lambda hidden_states, **rest: inner(hidden_states=hidden_states + 0, **rest)
    seen = seen_by(model)
    assert "model.layers.0.input_layernorm" not in seen.readers
    assert "model.layers.1.input_layernorm" in seen.readers


def test_the_largest_inputs_are_those_that_flowed() -> None:
    model = tiny_llama()
    found: list[torch.Tensor] = []
    layer = model.model.layers[1].mlp.down_proj
    hook = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].reshape(-1, 128).abs().amax(0)))
    with torch.no_grad():
        for index in range(3):
            model(torch.from_numpy(RandomRows().row(index).tokens)[None])
    hook.remove()
    expected = torch.stack(found).amax(0)
    torch.testing.assert_close(seen_by(model).largest["model.layers.1.mlp.down_proj"], expected)


@pytest.mark.parametrize("strength", [0.25, 0.75, 1.0])
def test_a_smoothed_model_computes_what_it_did(strength: float) -> None:
    model = tiny_llama()
    smoothed = copy.deepcopy(model)
    seen = seen_by(model)
    factors = smooth(smoothed, linear_layers(smoothed), seen, strength)
    assert len(factors) == 2 * 5
    with torch.no_grad():
        for name, factor in factors.items():
            smoothed.get_submodule(name).weight.mul_(factor)
    assert compare(logits_of(model, ROWS), logits_of(smoothed, ROWS)).max_logit_difference < 1e-3
    assert not torch.equal(
        model.model.layers[0].input_layernorm.weight, smoothed.model.layers[0].input_layernorm.weight
    )


def test_rounding_a_norm_to_bf16_adds_no_error() -> None:
    model = tiny_llama().to(torch.bfloat16)
    norm = model.model.layers[0].input_layernorm
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, 64))
    before = norm.weight.float().clone()
    factors = smooth(model, linear_layers(model), seen_by(model), 0.6)
    factor = factors["model.layers.0.self_attn.q_proj"]
    assert norm.weight.dtype == torch.bfloat16
    torch.testing.assert_close(norm.weight.float() * factor, before, rtol=1e-6, atol=0)


def test_gemmas_norms_are_not_scaled_by_their_weight() -> None:
    settings = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    gemma = GemmaForCausalLM(GemmaConfig(**settings, num_attention_heads=2, num_key_value_heads=1))
    assert not scales_with_its_weight(gemma.model.layers[0].input_layernorm)
    norm = tiny_llama().model.layers[0].input_layernorm
    kept = norm.weight.clone()
    assert scales_with_its_weight(norm) and torch.equal(norm.weight, kept)
