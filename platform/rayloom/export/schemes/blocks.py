"""Fits a model block by block, so that each block is calibrated on the outputs of the quantised blocks before it.

Only one block's activations and products are in memory at a time, and only one block is on the device. What flows
between blocks stays on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.export.quality.heldout_rows import CalibrationRows
from rayloom.export.schemes.calibration import batches

Fit = Callable[[str, nn.Linear, Tensor], None]
"""`(name, layer, products)`: rounds the layer's weight in place. `products`: (I, I) fp32, summed over positions."""


def blocks_of(model: nn.Module, layers: Mapping[str, nn.Linear]) -> dict[str, nn.Module]:
    """The repeated (transformer) blocks that hold the linear layers, by name, in order. Raises InputError if none."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    counts = {name: sum(layer.startswith(f"{name}.") for layer in layers) for name in lists}
    if not any(counts.values()):
        what = f"{type(model).__name__} has no repeated blocks to calibrate one after the other"
        raise InputError(what, fix="Choose rounding: nearest, which needs no text.")
    name = max(counts, key=lambda name: counts[name])
    return {f"{name}.{number}": block for number, block in enumerate(lists[name])}


INDEPENDENT = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose blocks get only hidden states from each other: their other arguments need no computing."""
CPU = torch.device("cpu")


@torch.no_grad()
def fit_blocks(
    model: Any,
    layers: Mapping[str, nn.Linear],
    rows: CalibrationRows,
    fit: Fit,
    advance: Callable[[int], None],
    device: torch.device = CPU,
) -> None:
    """Calls `fit` for each layer of the blocks, from first block to last, and `advance` after each block.

    A block and the products of its inputs are on the device while it is fitted.
    """
    blocks = blocks_of(model, layers)
    calls = [_record(model, blocks, batch) for batch in batches(rows)]
    for name, block in blocks.items():
        inside = {layer: module for layer, module in layers.items() if layer.startswith(f"{name}.")}
        block.to(device)
        for members, products in _products(block, name, inside, calls, device):
            for layer in members:
                fit(layer, inside[layer], products)
        for call in calls:
            call.hidden = call.run(block, name, device).cpu()
        advance(1)
        block.to(CPU)


@dataclass
class _Call:
    """One batch between blocks: its hidden states, and each block's other arguments, by block."""

    hidden: Tensor
    rest: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)

    def run(self, block: nn.Module, name: str, device: torch.device) -> Tensor:
        arguments, named = _on(device, self.rest[name])
        output = block(self.hidden.to(device), *arguments, **named)
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden


def _on(device: torch.device, value: Any) -> Any:
    """The value with its tensors on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_on(device, part) for part in value)
    return {key: _on(device, part) for key, part in value.items()} if isinstance(value, dict) else value


def _passing_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _record(model: Any, blocks: Mapping[str, nn.Module], batch: Any) -> _Call:
    """Runs the unchanged model once and records the arguments of its blocks, since masks and positions can differ.

    Where these do not depend on what blocks compute, no block computes.
    """
    call = _Call(torch.empty(0))
    first = next(iter(blocks))

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            named = dict(named)
            hidden = arguments[0] if arguments else named.pop("hidden_states")
            if name == first:
                call.hidden = hidden
            call.rest[name] = (arguments[1:], named)

        return hook

    with ExitStack() as hooks:
        for name, block in blocks.items():
            hooks.callback(block.register_forward_pre_hook(watch(name), with_kwargs=True).remove)
            if model.config.model_type in INDEPENDENT:
                block.forward = _passing_on
                hooks.callback(delattr, block, "forward")
        model.base_model(input_ids=batch.tokens, position_ids=batch.positions, use_cache=False)
    return call


def _products(
    block: nn.Module, name: str, layers: Mapping[str, nn.Linear], calls: list[_Call], device: torch.device
) -> Iterator[tuple[list[str], Tensor]]:
    """For each distinct input: the layers that read it, and its products (I, I) summed over all calls."""
    sums: dict[str, Tensor] = {}
    leaders: dict[str, str] = {}
    last: list[tuple[str, Tensor]] = []

    def watch(layer: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # Layers with the same input run one after the other, so comparing with the last input is enough.
            if last and last[0][1] is inputs[0]:
                leaders[layer] = last[0][0]
                return
            last[:] = [(layer, inputs[0])]
            leaders[layer] = layer
            flat = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            sums[layer] = sums[layer] + flat.T @ flat if layer in sums else flat.T @ flat

        return hook

    with ExitStack() as hooks:
        for layer, module in layers.items():
            hooks.callback(module.register_forward_pre_hook(watch(layer)).remove)
        for call in calls:
            last.clear()
            call.run(block, name, device)
    for leader, products in sums.items():
        yield [layer for layer in layers if leaders.get(layer) == leader], products
