"""Weights for a model on the meta device, of which each worker fills only its own part, one parameter at a time.

A worker so never holds more than its share of a model and one whole parameter, where `build_model` holds all of it. The
values are bit by bit the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rayloom.models.weight_files import stored_tensors
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import LoraAdapter, NoAdapter
from rayloom.train.weights.stored_names import stored_parameters

DRAWN_BY_OWNERS = ("llama",)
"""Model types of which each module initialises its own parameters only."""


@dataclass(frozen=True)
class Shards:
    """How a worker keeps parameters."""

    device: torch.device
    dtype: torch.dtype
    own: Callable[[nn.Parameter], tuple[int, int]]
    """First element, and one past the last, of those of a parameter that this worker needs."""
    keep: Callable[[nn.Parameter], None]
    """Keeps that part and frees the rest. Called once for each parameter, as soon as its part is filled."""
    others: Collection[nn.Parameter] = ()
    """Parameters of which this worker keeps nothing: they stay on the meta device, and are not read."""


class ShardedWeights(Protocol):
    """Where weights come from."""

    def fill(self, model: nn.Module, shards: Shards) -> None:
        """Gives every parameter and buffer of a model on the meta device its values. Parameters keep their identity."""


def sharded_weights(spec: TrainSpec, model: nn.Module, base: Path | None) -> ShardedWeights | None:
    """The weights that `build_model` would give, or None if only a whole model can be given them.

    That is so for adapters other than LoRA, and for models whose parameters have other names or shapes than the files'.
    """
    config: Any = model.config
    if not all(_has_only_computed_buffers(module) for module in model.modules()):
        return None
    if spec.architecture is not None:
        return FreshWeights(spec.seed) if config.model_type in DRAWN_BY_OWNERS else None
    if base is None or not isinstance(spec.adapter, NoAdapter | LoraAdapter):
        return None
    if isinstance(spec.adapter, LoraAdapter) and spec.adapter.weight_decomposed:
        return None
    stored = StoredWeights(base, spec.seed)
    return stored if stored.has_all_of(model) else None


@dataclass(frozen=True)
class StoredWeights:
    """Those of a folder's safetensors files; new ones of LoRA are drawn."""

    folder: Path
    seed: int

    def has_all_of(self, model: nn.Module) -> bool:
        return all(names is not None for _, names in stored_parameters(model, stored_tensors(self.folder)))

    def fill(self, model: nn.Module, shards: Shards) -> None:
        from safetensors import safe_open

        stored_dtype: dict[nn.Parameter, torch.dtype] = {}
        with ExitStack() as opened:
            where: dict[str, Any] = {}
            for path in sorted(self.folder.glob("*.safetensors")):
                file = opened.enter_context(safe_open(path, "pt"))
                where |= dict.fromkeys(file.keys(), file)
            for parameter, names in stored_parameters(model, stored_tensors(self.folder)):
                start, end = (0, 0) if parameter in shards.others else shards.own(parameter)
                part = read_parts([where[name].get_slice(name) for name in names or ()], start, end)
                stored_dtype[parameter] = part.dtype
                if parameter in shards.others:
                    continue
                data = torch.empty(parameter.shape, dtype=shards.dtype, device=shards.device)
                data.view(-1)[start:end] = part
                _place(parameter, data)
                shards.keep(parameter)
        _draw_lora(model, self.seed, stored_dtype, shards)
        for module in model.modules():
            _fill_buffers(model, module, shards.device)


@dataclass(frozen=True)
class FreshWeights:
    """Random ones, drawn by the modules themselves."""

    seed: int

    def fill(self, model: nn.Module, shards: Shards) -> None:
        torch.manual_seed(self.seed)
        self._construct(model, model, shards, set(), set())

    def _construct(
        self, module: nn.Module, model: nn.Module, shards: Shards, made: set[nn.Parameter], ready: set[nn.Module]
    ) -> None:
        """Draws in the order of transformers: constructors draw, and at the end of each model's its modules again."""
        from transformers import PreTrainedModel

        for child in module.children():
            self._construct(child, model, shards, made, ready)
        if not made.intersection(module.parameters(recurse=False)):  # not tied to what was made before
            _draw_and_forget(module, shards.device)
        if isinstance(module, PreTrainedModel):
            for part in _children_first(module):
                if part not in ready:
                    ready.add(part)
                    _make(part, model, shards, made)


def _make(module: nn.Module, model: nn.Module, shards: Shards, made: set[nn.Parameter]) -> None:
    own = list(module.parameters(recurse=False))
    if made.intersection(own):
        return
    for parameter in own:
        _place(parameter, torch.empty(parameter.shape, device=shards.device))
    _fill_buffers(model, module, shards.device)
    if own:
        _initialise(model, module)
    for parameter in own:
        _keep(parameter, parameter.data.to(shards.dtype), shards)
    made.update(own)


def read_parts(stored: Sequence[Any], start: int, end: int) -> Tensor:
    """(end - start,) elements of tensors of one type that follow each other, flattened."""
    parts, offset = [read_part(stored[0], 0, 0)], 0
    for one in stored:
        size = math.prod(one.get_shape())
        first, last = max(start - offset, 0), min(end - offset, size)
        if first < last:
            parts.append(read_part(one, first, last))
        offset += size
    return torch.cat(parts) if len(parts) > 2 else parts[-1]


def _keep(parameter: nn.Parameter, drawn: Tensor, shards: Shards) -> None:
    """Keeps what was drawn; or forgets it, as others draw from the same random numbers."""
    if parameter in shards.others:
        _place(parameter, torch.empty_like(drawn, device="meta"))
        return
    parameter.data = drawn
    shards.keep(parameter)


def read_part(stored: Any, start: int, end: int) -> Tensor:
    """(end - start,) elements of a tensor, flattened. `stored`: a slice of safetensors, of which only rows are read."""
    shape = stored.get_shape()
    if not shape:
        return stored[:].reshape(-1)[start:end]  # type: ignore[no-any-return]
    width = math.prod(shape[1:])
    first, last = start // width, -(-end // width)
    rows: Tensor = stored[first:last]
    return rows.reshape(-1)[start - first * width : end - first * width]


def _place(parameter: nn.Parameter, data: Tensor) -> None:
    torch.utils.swap_tensors(parameter, nn.Parameter(data, requires_grad=parameter.requires_grad))  # type: ignore[no-untyped-call]


def _children_first(module: nn.Module) -> Iterator[nn.Module]:
    """The order in which transformers initialises modules."""
    for child in module.children():
        yield from _children_first(child)
    yield module


def _draw_and_forget(module: nn.Module, device: torch.device) -> None:
    if any(True for _ in module.parameters(recurse=False)) and hasattr(module, "reset_parameters"):
        copy.deepcopy(module).to_empty(device=device).reset_parameters()  # type: ignore[operator]


@torch.no_grad()
def _initialise(model: Any, module: nn.Module) -> None:
    model._init_weights(module)


def _has_only_computed_buffers(module: nn.Module) -> bool:
    """Whether its buffers are in no file, and can be computed without touching parameters."""
    buffers = dict(module.named_buffers(recurse=False))
    is_computed = set(buffers) <= module._non_persistent_buffers_set
    return not buffers or (is_computed and not any(True for _ in module.parameters(recurse=False)))


def _fill_buffers(model: Any, module: nn.Module, device: torch.device) -> None:
    """Computes what a module without parameters keeps, such as rotary frequencies."""
    buffers = dict(module.named_buffers(recurse=False))
    if not buffers:
        return
    for name, buffer in buffers.items():
        module._buffers[name] = torch.empty_like(buffer, device=device)
    _initialise(model.get_base_model() if hasattr(model, "get_base_model") else model, module)


def _draw_lora(model: nn.Module, seed: int, stored_dtype: Mapping[nn.Parameter, torch.dtype], shards: Shards) -> None:
    """Draws LoRA's matrices as PEFT does: by the constructors of A and B, and A again, in the base's precision."""
    torch.manual_seed(seed)
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "reset_lora_parameters")]
    for layer in layers:
        for name in layer.lora_A:
            pair = (layer.lora_A[name], layer.lora_B[name])
            for linear in pair:
                _draw_and_forget(linear, shards.device)
                _place(linear.weight, torch.empty(linear.weight.shape, device=shards.device))
            layer.reset_lora_parameters(name, True)
            for linear in pair:
                rounded = linear.weight.data.to(stored_dtype[layer.get_base_layer().weight])
                _keep(linear.weight, rounded.to(shards.dtype), shards)
