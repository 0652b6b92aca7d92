"""Calibration statistics of a model: the largest inputs of its linear layers, and the norms that feed them.

Shapes: B rows, S positions, I inputs of a layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rayloom.export.quality.heldout_rows import CalibrationRows
from rayloom.score.batches import Batch, causal_batch


@dataclass
class Observed:
    """Statistics of the linear layers' inputs over all rows."""

    largest: dict[str, Tensor] = field(default_factory=dict)
    """(I,) fp32 largest magnitude of each input, by layer."""
    readers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The layers that read a norm's output, by norm; only norms whose output is read by nothing else."""


def batches(rows: CalibrationRows, advance: Callable[[int], None] = lambda _: None) -> Iterator[Batch]:
    """The rows as batches of one for a model's forward pass, so that there is no padding to distort statistics."""
    for number in range(len(rows)):
        yield causal_batch([rows.row(number)], padding_token=0)
        advance(1)


@torch.no_grad()
def observe(
    model: Any, layers: Mapping[str, nn.Linear], rows: CalibrationRows, advance: Callable[[int], None] = lambda _: None
) -> Observed:
    """Runs the rows through the model, up to its head, and records the inputs of its linear layers."""
    largest: dict[str, Tensor] = {}
    reads = _Reads()

    def watch_norm(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: reads.add_output(name, output)

    def watch_layer(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            reads.add_layer(name, inputs[0])
            with torch._C.DisableTorchFunction():  # this hook's own reads are not counted
                magnitudes = inputs[0].reshape(-1, inputs[0].shape[-1]).abs().amax(dim=0).float()
                largest[name] = torch.maximum(largest[name], magnitudes) if name in largest else magnitudes

        return hook

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if is_norm(module):
                hooks.callback(module.register_forward_hook(watch_norm(name)).remove)
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(watch_layer(name)).remove)
        for batch in batches(rows, advance):
            with reads:
                model.base_model(input_ids=batch.tokens, position_ids=batch.positions, use_cache=False)
            reads.forget()
    return Observed(largest, reads.by_layers_only())


def is_norm(module: nn.Module) -> bool:
    """Whether it is an RMSNorm or LayerNorm with a weight, by class name, since each architecture has its own class."""
    return type(module).__name__.endswith("Norm") and isinstance(getattr(module, "weight", None), nn.Parameter)


class _Reads(TorchFunctionMode):
    """Counts how often torch functions read each norm's output; a linear layer reads it in one call of `linear`."""

    def __init__(self) -> None:
        super().__init__()
        self._outputs: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept alive, so that its id is not reused
        self._calls: Counter[str] = Counter()
        self._layer_calls: Counter[str] = Counter()
        self._layers: dict[str, dict[str, None]] = {}

    def add_output(self, norm: str, output: Tensor) -> None:
        self._outputs[id(output)] = (norm, output)

    def add_layer(self, layer: str, read: Tensor) -> None:
        if id(read) in self._outputs:
            norm = self._outputs[id(read)][0]
            self._layer_calls[norm] += 1
            self._layers.setdefault(norm, {})[layer] = None

    def forget(self) -> None:
        self._outputs.clear()

    def by_layers_only(self) -> dict[str, tuple[str, ...]]:
        return {
            norm: tuple(layers) for norm, layers in self._layers.items() if self._calls[norm] == self._layer_calls[norm]
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in (*args, *(kwargs or {}).values()):
            # Access to an attribute such as the shape (`__get__`) does not read values.
            if isinstance(value, Tensor) and id(value) in self._outputs and func.__name__ != "__get__":
                self._calls[self._outputs[id(value)][0]] += 1
        return func(*args, **(kwargs or {}))
