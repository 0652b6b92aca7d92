"""The loss that balances a router: transformers' own for one row, however rows are cut, and none in evaluation."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.threads import on_threads
from support.training_jobs import small_spec
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from rayloom.errors import InputError
from rayloom.score.batches import NO_LABEL, Batch
from rayloom.score.label_loss import LabelLoss
from rayloom.score.parallel.axis import ALONE, Axis
from rayloom.score.router_balance import BalancedLabelLoss, imbalance
from rayloom.specs.training.optimization import ActivationCheckpointing
from rayloom.train.weights.layers import recompute
from rayloom.train.weights.layout import make_parts
from rayloom.train.weights.parts import part_of, whole

VOCABULARY, WEIGHT = 61, 0.5
TYPES = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")


def model_of(model_type: str) -> Any:
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 8, "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes)).train()


def batch(*numbers: int) -> Batch:
    """Rows by number, with different counts of labels."""
    rows = [np.random.default_rng(number).integers(0, VOCABULARY, (2, 12)) for number in numbers]
    tokens, labels = (torch.from_numpy(np.stack([row[part] for row in rows])) for part in range(2))
    for label, number in zip(labels, numbers, strict=True):
        label[: 2 * number] = NO_LABEL
    return Batch(tokens, torch.arange(12).expand(len(rows), -1), labels, 12 * len(rows))


def gradients(model: Any, *batches: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    loss = BalancedLabelLoss(model, WEIGHT)
    total = 0.0
    for one in batches:
        value = loss(one)
        value.backward()
        total += float(value.detach())
    return total, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_it_is_transformers_for_one_row_and_layer() -> None:
    logits = torch.randn(9, 4)
    expected = load_balancing_loss_func((logits,), 4, 2)
    found = imbalance(logits, logits.topk(2, dim=-1).indices, 1)
    assert float(found) == pytest.approx(float(expected) / 2)  # which counts each of a token's two experts
    assert float(imbalance(torch.zeros(4, 4), torch.tensor([[0, 1], [2, 3], [0, 2], [1, 3]]), 1)) == pytest.approx(1)


@pytest.mark.parametrize("model_type", TYPES)
def test_it_is_added_in_training_only(model_type: str) -> None:
    model, rows = model_of(model_type), batch(0, 1)
    loss = BalancedLabelLoss(model, WEIGHT)
    with torch.no_grad():
        plain = float(LabelLoss(model)(rows))
        assert float(loss(rows)) > plain + 0.9 * WEIGHT * rows.num_labels
        model.eval()
        assert float(loss(rows)) == pytest.approx(plain)


def test_how_rows_are_cut_and_where_experts_are_changes_nothing() -> None:
    model = model_of("qwen3_moe")
    expected, gradient = gradients(copy.deepcopy(model), batch(0, 1))
    recomputed = copy.deepcopy(model)
    recompute(recomputed, ActivationCheckpointing())
    apart, of_apart = gradients(recomputed, batch(0), batch(1))
    assert apart == pytest.approx(expected, rel=1e-6)

    def on_worker(axis: Axis) -> tuple[float, dict[str, torch.Tensor]]:
        own = copy.deepcopy(model)
        make_parts(own, None, ALONE, torch.device("cpu"), torch.float32, axis)
        loss, found = gradients(own, batch(axis.rank))
        for name, grad in found.items():
            if part_of(own.get_parameter(name)) is None:
                axis.summed(grad)
        return loss, {name: whole(own.get_parameter(name), grad, axis) for name, grad in found.items()}

    (first, of_first), (second, _) = on_threads(2, on_worker)
    assert first + second == pytest.approx(expected, rel=1e-6)
    for name, value in gradient.items():
        for found in (of_apart, of_first):
            assert float((found[name] - value).abs().max() / value.abs().max()) < 1e-5, name


def test_what_has_no_router_is_refused() -> None:
    with pytest.raises(InputError, match="the base is none"):
        BalancedLabelLoss(torch.nn.Linear(1, 1), 1.0)
    with pytest.raises(ValidationError, match="not for architecture"):
        small_spec(router_balance=0.01)
    mixture: dict[str, Any] = {"architecture": None, "base": "./mixture", "router_balance": 0.01}
    assert small_spec(**mixture).router_balance == 0.01
    with pytest.raises(ValidationError, match="whole rows"):
        small_spec(**mixture, sharding={"context": 2}, workers={"num_workers": 2})
