"""Models whose matrices are cut over workers against whole ones: loss, gradients, and what is gathered again."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.threads import on_threads
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from rayloom.errors import InputError
from rayloom.score.batches import NO_LABEL, Batch
from rayloom.score.label_loss import LabelLoss
from rayloom.score.parallel.axis import Axis
from rayloom.train.weights.layers import recompute
from rayloom.train.weights.layout import make_parts
from rayloom.train.weights.parts import part_of, whole
from rayloom.train.weights.tensor_parallel import PROVEN, check_parts

VOCABULARY = 67
"""No multiple of the workers: their parts of the vocabulary differ in size."""
SIZE = 2
CPU = torch.device("cpu")


def config_of(model_type: str, **changes: Any) -> Any:
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
        "initializer_range": 0.3, "tie_word_embeddings": False,
    }  # fmt: skip
    return AutoConfig.for_model(model_type, **(shape | changes))


def model_of(config: Any, has_lora: bool = False) -> nn.Module:
    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms that are not the same for all heads
            nn.init.normal_(parameter, 1.0, 0.3)
    if has_lora:
        model = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False))
    return model.train()  # type: ignore[no-any-return]


def batch() -> Batch:
    """Two rows of three documents, with labels of every worker's tokens, and some positions without."""
    random = np.random.default_rng(5)
    tokens = torch.from_numpy(random.integers(0, VOCABULARY, (2, 20)))
    labels = torch.from_numpy(random.integers(0, VOCABULARY, (2, 20)))
    labels[:, ::5] = NO_LABEL
    positions = torch.cat([torch.arange(9), torch.arange(4), torch.arange(7)]).expand(2, -1)
    return Batch(tokens, positions, labels, 40)


def gradients(model: nn.Module, steps: int = 1) -> tuple[float, dict[str, Tensor]]:
    """The loss, and all gradients after so many passes that add to them."""
    for _ in range(steps):
        loss = LabelLoss(model)(batch())
        loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_alike(name: str, found: Tensor, expected: Tensor) -> None:
    """Equal up to the rounding of sums in another order, which is as large as the largest terms make it."""
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < 1e-5, (name, error)


@pytest.mark.parametrize("has_lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("model_type", PROVEN)
def test_parts_give_the_loss_and_the_gradients_of_the_whole_model(model_type: str, has_lora: bool) -> None:
    model = model_of(config_of(model_type), has_lora)
    loss, expected = gradients(copy.deepcopy(model), steps=2)

    def on_worker(axis: Axis) -> tuple[float, dict[str, Tensor], list[str]]:
        own = copy.deepcopy(model)
        make_parts(own, None, axis, CPU, torch.float32)
        own_loss, found = gradients(own, steps=2)
        gathered = {name: whole(own.get_parameter(name), gradient, axis) for name, gradient in found.items()}
        return own_loss, gathered, [name for name, p in own.named_parameters() if part_of(p) is not None]

    for own_loss, found, cut in on_threads(SIZE, on_worker):
        assert own_loss == pytest.approx(loss, rel=1e-6)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert_alike(name, found[name], gradient)
        assert len([name for name in cut if ".lora_" not in name and name.endswith("weight")]) == 2 * 7 + 2


def test_tied_embeddings_and_layers_that_are_computed_again() -> None:
    model = model_of(config_of("llama", tie_word_embeddings=True))
    loss, expected = gradients(copy.deepcopy(model))

    def on_worker(axis: Axis) -> tuple[float, dict[str, Tensor]]:
        own = copy.deepcopy(model)
        from rayloom.specs.training.optimization import ActivationCheckpointing

        recompute(own, ActivationCheckpointing())
        make_parts(own, None, axis, CPU, torch.float32)
        own_loss, found = gradients(own)
        return own_loss, {name: whole(own.get_parameter(name), gradient, axis) for name, gradient in found.items()}

    for own_loss, found in on_threads(SIZE, on_worker):
        assert own_loss == pytest.approx(loss, rel=1e-6)
        for name, gradient in expected.items():
            assert_alike(name, found[name], gradient)


def test_held_out_loss_without_gradients_is_that_of_the_whole_model() -> None:
    model = model_of(config_of("qwen2"))
    with torch.no_grad():
        expected = float(LabelLoss(model)(batch()))

    def on_worker(axis: Axis) -> float:
        own = copy.deepcopy(model)
        make_parts(own, None, axis, CPU, torch.float32)
        with torch.no_grad():
            return float(LabelLoss(own)(batch()))

    assert on_threads(SIZE, on_worker) == [pytest.approx(expected, rel=1e-6)] * SIZE


@pytest.mark.parametrize(
    ("config", "num_parts", "said"),
    [
        (config_of("llama"), 4, "does not divide the base's 2 key-value heads.*sharding.tensor: 2"),
        (
            config_of("llama", hidden_size=24, num_attention_heads=3, num_key_value_heads=3, head_dim=8),
            2,
            "3 attention heads",
        ),
        (AutoConfig.for_model("gpt2"), 2, "type gpt2 is not cut.*llama"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_what_can(config: Any, num_parts: int, said: str) -> None:
    with pytest.raises(InputError) as refused:
        check_parts(config, num_parts)
    assert re.search(said, str(refused.value).replace("\n", " "))


def test_a_bias_behind_a_sum_and_an_adapter_on_the_output_layer_are_refused() -> None:
    with pytest.raises(InputError, match="has a bias"):
        make_parts(model_of(config_of("llama", attention_bias=True)), None, Axis(0, 2), CPU, torch.float32)
    adapted: Any = get_peft_model(model_of(config_of("llama")), LoraConfig(r=3, target_modules=["lm_head"]))
    with pytest.raises(InputError, match="output layer"):
        make_parts(adapted, None, Axis(0, 2), CPU, torch.float32)
