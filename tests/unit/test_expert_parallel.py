"""Mixtures whose experts are spread over workers against one worker: loss, gradients, and what is gathered again."""

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
from rayloom.score.parallel.axis import ALONE, Axis
from rayloom.specs.training.optimization import ActivationCheckpointing
from rayloom.train.weights.expert_parallel import PROVEN, check_experts
from rayloom.train.weights.layers import recompute
from rayloom.train.weights.layout import make_parts
from rayloom.train.weights.parts import part_of, whole
from rayloom.train.weights.tensor_parallel import MIXTURES, check_parts

VOCABULARY, NUM_EXPERTS, SIZE = 67, 6, 2


def config_of(model_type: str, **changes: Any) -> Any:
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
        "num_experts_per_tok": 2, "num_experts": NUM_EXPERTS, "tie_word_embeddings": False,
    }  # fmt: skip
    return AutoConfig.for_model(model_type, **(shape | changes))


def model_of(config: Any, has_lora: bool = False) -> Any:
    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_config(config)
    if has_lora:
        model = get_peft_model(model, LoraConfig(r=3, target_modules=["q_proj", "o_proj"], init_lora_weights=False))
    return model.train()


def batches() -> list[Batch]:
    """What each worker computes: another row, of two documents; and labels of none of the second one's last tokens."""
    made = []
    for seed in range(SIZE):
        random = np.random.default_rng(seed)
        tokens, labels = (torch.from_numpy(random.integers(0, VOCABULARY, (1, 20 - seed))) for _ in range(2))
        labels[:, seed::5] = NO_LABEL
        made.append(Batch(tokens, torch.cat([torch.arange(9), torch.arange(11 - seed)])[None], labels, 20))
    return made


def gradients(model: nn.Module, given: list[Batch], steps: int = 1) -> tuple[list[float], dict[str, Tensor]]:
    """The losses, and all gradients after so many passes that add to them."""
    losses = []
    for _ in range(steps):
        for batch in given:
            loss = LabelLoss(model)(batch)
            loss.backward()
            losses.append(float(loss.detach()))
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def spread(model: Any, axis: Axis) -> Any:
    own = copy.deepcopy(model)
    make_parts(own, None, ALONE, torch.device("cpu"), torch.float32, axis)
    return own


def check_with_tensor(model: Any, given: list[Batch]) -> None:
    """The same rows on all workers, each of which has a part of all other matrices and some experts."""
    (loss, *_), expected = gradients(copy.deepcopy(model), given[:1])

    def on_worker(axis: Axis) -> tuple[list[float], dict[str, Tensor]]:
        own = copy.deepcopy(model)
        make_parts(own, None, axis, torch.device("cpu"), torch.float32, axis)
        own_losses, found = gradients(own, given[:1])
        return own_losses, {name: whole(own.get_parameter(name), grad, axis) for name, grad in found.items()}

    for own_losses, found in on_threads(SIZE, on_worker):
        assert own_losses == pytest.approx([loss], rel=1e-6)
        assert_alike(found, expected)


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = float((found[name] - gradient).abs().max() / gradient.abs().max())
        assert error < 1e-5, (name, error)


def check_against_one_worker(model: Any, given: list[Batch], steps: int = 1) -> None:
    losses, expected = gradients(copy.deepcopy(model), given, steps)

    def on_worker(axis: Axis) -> tuple[list[float], dict[str, Tensor]]:
        own = spread(model, axis)
        own_losses, found = gradients(own, given[axis.rank :: SIZE], steps)
        for name, gradient in found.items():
            if part_of(own.get_parameter(name)) is None:
                axis.summed(gradient)
        return own_losses, {name: whole(own.get_parameter(name), grad, axis) for name, grad in found.items()}

    for rank, (own_losses, found) in enumerate(on_threads(SIZE, on_worker)):
        assert own_losses == pytest.approx(losses[rank::SIZE], rel=1e-6)
        assert_alike(found, expected)


@pytest.mark.parametrize("kernel", ["eager", "grouped_mm"])
@pytest.mark.parametrize("model_type", PROVEN)
def test_spread_experts_give_the_loss_and_the_gradients_of_one_worker(model_type: str, kernel: str) -> None:
    model = model_of(config_of(model_type))
    model.config._experts_implementation = kernel
    check_against_one_worker(model, batches(), steps=2)


@pytest.mark.parametrize("model_type", PROVEN)
def test_lora_with_frozen_experts(model_type: str) -> None:
    check_against_one_worker(model_of(config_of(model_type), has_lora=True), batches())


@pytest.mark.parametrize("has_lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("model_type", MIXTURES)
def test_experts_over_workers_with_parts_of_the_other_matrices(model_type: str, has_lora: bool) -> None:
    check_with_tensor(model_of(config_of(model_type), has_lora), batches())


def test_a_mixture_is_cut_where_its_experts_are_spread() -> None:
    check_parts(config_of("mixtral"), 2, are_experts_spread=True)
    with pytest.raises(InputError, match="experts are not cut but spread"):
        check_parts(config_of("mixtral"), 2)


def test_layers_that_are_computed_again_and_some_without_experts() -> None:
    model = model_of(config_of("qwen3_moe", num_hidden_layers=3, mlp_only_layers=[1]))
    recompute(model, ActivationCheckpointing())
    check_against_one_worker(model, batches())


@pytest.mark.parametrize("kernel", ["eager", "grouped_mm"])
def test_a_worker_to_which_no_token_comes_takes_part(kernel: str) -> None:
    model = model_of(config_of("mixtral"))
    model.config._experts_implementation = kernel
    with torch.no_grad():
        for layer in model.model.layers:
            # Whatever a token is, the first two experts are the most probable: both are the first worker's.
            layer.mlp.gate.weight.copy_(torch.linspace(0.01, 0, NUM_EXPERTS)[:, None].expand_as(layer.mlp.gate.weight))
            layer.post_attention_layernorm.register_forward_hook(lambda _, __, out: out.abs())
    _, expected = gradients(copy.deepcopy(model), batches())
    assert not expected["model.layers.0.mlp.experts.down_proj"][2:].any()
    check_against_one_worker(model, batches())


def test_tokens_go_to_their_experts_workers_and_each_holds_only_its_own() -> None:
    model = model_of(config_of("mixtral"))

    def on_worker(axis: Axis) -> tuple[list[int], list[int]]:
        own = spread(model, axis)
        experts = own.model.layers[0].mlp.experts
        return [len(p) for p in experts.parameters()], [p.numel() for p in own.parameters()]

    counts = [p.numel() for p in model.parameters()]
    for held, sizes in on_threads(SIZE, on_worker):
        assert held == [NUM_EXPERTS // SIZE] * 2
        assert sum(sizes) < sum(counts)


@pytest.mark.parametrize(
    ("config", "size", "said"),
    [
        (config_of("mixtral"), 4, "does not divide the base's 6 experts.*sharding.expert: 3"),
        (AutoConfig.for_model("llama"), 2, "type llama has no experts.*mixtral"),
    ],
)
def test_what_cannot_be_spread_is_refused_with_what_can(config: Any, size: int, said: str) -> None:
    with pytest.raises(InputError) as refused:
        check_experts(config, size)
    assert re.search(said, str(refused.value).replace("\n", " "))
