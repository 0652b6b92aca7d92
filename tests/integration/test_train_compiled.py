"""Compiled layers: LoRA's matrices are compiled with the layer that has them, once for all layers."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from support.models import tiny_llama
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from rayloom.models.adapters import attach
from rayloom.score.batches import Batch
from rayloom.score.label_loss import LabelLoss
from rayloom.specs.training.adapters import LoraAdapter
from rayloom.train.weights.layers import layers_of

pytestmark = [
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]
NUM_LAYERS = 10
"""More than the times that torch compiles a function again before it gives up (8)."""


def loss_and_gradients(model: Any) -> tuple[float, torch.Tensor]:
    tokens = torch.randint(512, (2, 16), generator=torch.Generator().manual_seed(0))
    batch = Batch(tokens, torch.arange(16).expand(2, 16), tokens.roll(-1), tokens.numel())
    torch.manual_seed(0)  # for dropout
    loss = LabelLoss(model.train())(batch)
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.1}])
def test_lora_is_compiled_with_its_layer_in_one_piece(changes: dict[str, Any]) -> None:
    model = attach(tiny_llama(num_hidden_layers=NUM_LAYERS), LoraAdapter(type="lora", rank=4, **changes))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    plain = loss_and_gradients(deepcopy(model))
    torch._dynamo.reset()
    counters.clear()
    compiled = CompileCounterWithBackend("aot_eager")
    for layer in layers_of(model):
        layer.compile(backend=compiled)
    found = loss_and_gradients(model)
    assert found[0] == pytest.approx(plain[0], rel=1e-6)
    assert float((found[1] - plain[1]).norm() / plain[1].norm()) < 1e-5
    assert not counters["graph_break"]
    assert compiled.frame_count == 2  # the first layer's input has no gradient
