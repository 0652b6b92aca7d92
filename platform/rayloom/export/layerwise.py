"""Computes and merges in fp32 one layer at a time, with a model that is loaded in the precision of its files.

The weights stay memory-mapped; only the present layer is copied to fp32. The results equal those of a model that is
loaded in fp32 as a whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rayloom.errors import InputError
from rayloom.export.model_folder import first_line
from rayloom.export.shard_writer import WeightShardWriter, copy_tensors, tied_head
from rayloom.models.weight_files import stored_tensors

if TYPE_CHECKING:
    from pathlib import Path


def is_adapted(module: nn.Module) -> bool:
    """Whether the module is a PEFT layer with an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


@contextlib.contextmanager
def computing_in_fp32(model: nn.Module, is_merged: bool = False) -> Iterator[None]:
    """In the block, each layer has fp32 weights during its forward pass. `is_merged`: with the adapter merged in."""
    with contextlib.ExitStack() as hooks:
        for module in model.modules():
            adapted = is_adapted(module)
            if adapted or any(True for _ in module.parameters(recurse=False)):
                _hook(module, hooks, adapted, is_merged and adapted)
        yield


def _hook(module: nn.Module, hooks: contextlib.ExitStack, is_whole: bool, is_merged: bool) -> None:
    kept: list[Callable[[], None]] = []

    def before(*_: Any) -> None:
        kept.append(_to_fp32(module, is_whole))
        if is_merged:
            merge_layer(module)

    def after(*_: Any) -> None:
        kept.pop()()

    hooks.callback(module.register_forward_pre_hook(before).remove)
    hooks.callback(module.register_forward_hook(after, always_call=True).remove)


def _to_fp32(module: nn.Module, is_whole: bool) -> Callable[[], None]:
    """Copies the module's own tensors, or with `is_whole` also its children's, to fp32; returns the undo function."""
    tensors = [t for t in (*module.parameters(is_whole), *module.buffers(is_whole)) if t.is_floating_point()]
    stored = [tensor.data for tensor in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.to(torch.float32, copy=is_whole)

    def put_back() -> None:
        for tensor, data in zip(tensors, stored, strict=True):
            tensor.data = data
        if is_adapted(module):
            module.merged_adapters.clear()  # type: ignore[union-attr, operator]

    return put_back


def merge_layer(layer: Any) -> None:
    """Merges one layer's adapter. Raises InputError if PEFT cannot: some methods' layers have no merge, some refuse."""
    merge, reason = getattr(layer, "merge", None), f"{type(layer).__name__} has no merge"
    if merge is not None:
        try:
            merge(safe_merge=True)
        except (ValueError, NotImplementedError) as error:
            reason = first_line(error)
        else:
            return
    raise InputError(f"PEFT cannot merge this adapter: {reason}", fix="Serve it beside its base instead.")


def write_merged(tuned: Any, source: Path, directory: Path, dtype: torch.dtype) -> bool:
    """Writes base + adapter, each layer merged in fp32 and rounded to `dtype`; False if layers cannot be merged singly.

    That is so if an adapted weight has another name in the base's files, or the adapter replaces whole modules.
    """
    model = tuned.base_model.model
    layers = {name: module for name, module in model.named_modules() if is_adapted(module)}
    own = stored_tensors(source)
    weights = {f"{name}.{end}" for name, layer in layers.items() for end, _ in layer.base_layer.named_parameters()}
    if not weights <= set(own) or _replaces_modules(model):
        return False
    writer = WeightShardWriter(directory)
    for name, layer in layers.items():
        put_back = _to_fp32(layer, is_whole=True)
        try:
            merge_layer(layer)
            for end, weight in layer.base_layer.named_parameters():
                writer.add(f"{name}.{end}", weight.to(dtype, copy=True))
        finally:
            put_back()
    copy_tensors(source, writer, weights | tied_head(model), lambda _: dtype)
    writer.close()
    return True


def _replaces_modules(model: nn.Module) -> bool:
    from peft.utils.other import AuxiliaryTrainingWrapper

    return any(isinstance(module, AuxiliaryTrainingWrapper) for module in model.modules())
