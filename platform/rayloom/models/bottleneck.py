"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751), which PEFT does not have.

The output h of attention or feed-forward becomes h + W_up · gelu(W_down · h). W_up is zero at first, so training starts
from the base model.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.models.parts import outputs_of


class Bottleneck(nn.Module):
    """A linear layer followed by a bottleneck adapter."""

    def __init__(self, layer: nn.Module, width: int, size: int) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        nn.init.normal_(self.down.weight, std=0.01)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(x)
        return h + self.up(nn.functional.gelu(self.down(h)))  # type: ignore[no-any-return]


def add_bottlenecks(model: nn.Module, size: int, places: Collection[Literal["attention", "feed_forward"]]) -> list[str]:
    """Adds bottlenecks to the model; returns the names of the layers that they follow.

    Raises InputError if the model's layers are not recognised.
    """
    names = [name for part in sorted(places) for name in outputs_of(model, part)]
    if not names:
        what = f"No layer behind {' or '.join(sorted(places))} was recognised in {type(model).__name__}"
        raise InputError(what, fix="Use LoRA, which works on any linear layer.")
    config: Any = model.config
    for name in names:
        parent, leaf = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        layer = getattr(parent, leaf)
        wrapped = Bottleneck(layer, int(config.hidden_size), size)
        weight = next(layer.parameters())
        if weight.is_floating_point():
            wrapped.down.to(weight.dtype)
            wrapped.up.to(weight.dtype)
        setattr(parent, leaf, wrapped.to(weight.device))
    return names
