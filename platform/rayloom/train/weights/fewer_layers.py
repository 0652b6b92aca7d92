"""A student that begins with some of its base's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rayloom.errors import InputError
from rayloom.specs.training.teacher import KeptLayers


def keep_layers(model: nn.Module, wanted: KeptLayers | None) -> nn.Module:
    """The model with these layers of it only, and its configuration changed alike; None keeps all.

    Raises InputError if the model has fewer layers, or no single stack of them.
    """
    if wanted is None:
        return model
    from transformers.modeling_layers import GradientCheckpointingLayer

    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(isinstance(part, GradientCheckpointingLayer) for part in module)
    ]
    if len(stacks) != 1:
        what = f"{type(model).__name__} has {len(stacks)} stacks of layers, and keep_layers needs one"
        raise InputError(what, where="keep_layers", fix="Leave it out.")
    name, stack = stacks[0]
    numbers = chosen(wanted, len(stack))
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, nn.ModuleList(stack[number] for number in numbers))
    for place, number in enumerate(numbers):
        for module in stack[number].modules():
            if hasattr(module, "layer_idx"):  # a cache keeps keys and values by it
                module.layer_idx = place  # type: ignore[assignment]
    _shorten(model.config, numbers, len(stack))
    return model


def chosen(wanted: KeptLayers, num_layers: int) -> tuple[int, ...]:
    """Indices of the layers to keep: those named, or so many from the first to the last. Raises InputError."""
    if isinstance(wanted, int):
        numbers = tuple(round(place * (num_layers - 1) / max(1, wanted - 1)) for place in range(wanted))
    else:
        numbers = wanted
    if len(numbers) > num_layers or numbers[-1] >= num_layers:
        what = f"keep_layers asks for layer {numbers[-1]}" if numbers is wanted else f"keep_layers asks for {wanted}"
        fix = f"The base has {num_layers} layers, 0 to {num_layers - 1}."
        raise InputError(what, where="keep_layers", fix=fix)
    return numbers


def _shorten(config: Any, numbers: Sequence[int], num_layers: int) -> None:
    for name, value in list(vars(config).items()):
        # What is said of each layer, such as `layer_types`.
        if isinstance(value, list) and len(value) == num_layers:
            setattr(config, name, [value[number] for number in numbers])
    config.num_hidden_layers = len(numbers)
