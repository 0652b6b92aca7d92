"""Activations computed again: the same gradients, and as much less is kept as the setting says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.models import tiny_llama
from support.training_jobs import small_spec
from torch.utils.flop_counter import FlopCounterMode

from rayloom.specs.training.optimization import ActivationCheckpointing
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import ModelSize, size_of_architecture
from rayloom.train.weights.layers import recompute

SETTINGS: dict[str, dict[str, Any] | None] = {
    "nothing": None,
    "half the layers": {"every_layers": 2},
    "products kept": {"keep": "products"},
    "everything": {},
}


def trained(settings: dict[str, Any] | None) -> tuple[torch.Tensor, int, int]:
    """Gradients of one step, the bytes that were kept for the backward pass, and its FLOPs."""
    model = tiny_llama(num_hidden_layers=4).train()
    if settings is not None:
        recompute(model, ActivationCheckpointing(**settings))
    tokens = torch.randint(512, (2, 64), generator=torch.Generator().manual_seed(0))
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return gradients, sum(kept.values()), counter.get_total_flops()


def test_gradients_are_the_same_and_less_is_kept_or_repeated() -> None:
    found = {name: trained(settings) for name, settings in SETTINGS.items()}
    for name, (gradients, _, _) in found.items():
        assert torch.equal(gradients, found["nothing"][0]), name
    kept = {name: found[name][1] for name in ("nothing", "half the layers", "everything")}
    assert kept["everything"] < kept["half the layers"] < kept["nothing"]
    flops = {name: computed for name, (_, _, computed) in found.items()}
    assert flops["products kept"] == flops["nothing"]  # no product is computed twice
    assert flops["nothing"] < flops["half the layers"] < flops["everything"]


def test_the_plan_orders_them_alike() -> None:
    spec = small_spec()
    assert spec.architecture is not None
    size: ModelSize = size_of_architecture(spec.architecture.model_copy(update={"num_layers": 8}), 67)
    order = ["nothing", "half the layers", "everything"]
    needed = [
        memory_per_device(small_spec(activation_checkpointing=SETTINGS[name] or name == "everything"), size).activations
        for name in order
    ]
    products = memory_per_device(small_spec(activation_checkpointing=SETTINGS["products kept"]), size).activations
    assert needed[0] > needed[1] > needed[2]
    assert needed[0] > products > needed[2]
    same = small_spec(activation_checkpointing={})
    assert memory_per_device(same, size) == memory_per_device(small_spec(activation_checkpointing=True), size)


def test_products_are_not_seen_in_compiled_layers() -> None:
    with pytest.raises(ValidationError, match="use every_layers, or not compile"):
        small_spec(activation_checkpointing={"keep": "products"}, compile=True)
    assert small_spec(activation_checkpointing={"every_layers": 2}, compile=True).recomputed is not None
