"""Writes quantised models in compressed-tensors format, which transformers and vLLM read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
)
from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.export.shard_writer import WeightShardWriter, copy_tensors, tied_head, write_configuration
from rayloom.models.adapters import HEADS
from rayloom.models.weight_files import stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel
from dataclasses import dataclass

import torch

StoredLayer = dict[str, Tensor]
"""The stored tensors of one layer, by the last part of their names: `weight`, `weight_scale`."""


def linear_layers(model: PreTrainedModel, with_head: bool = False) -> dict[str, nn.Linear]:
    """The layers to quantise, by name: all linear ones without a task's head; the output head only if `with_head`.

    The output head is usually tied to the embeddings, and its rounding errors change the logits directly. Raises
    InputError if there is no linear layer, or the head has another name than `lm_head`, which the server expects.
    """
    head = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    layers = {
        name: module for name, module in linear.items() if module is not head and name.partition(".")[0] not in HEADS
    }
    if not layers:
        what = f"{type(model).__name__} has no linear layer to quantise"
        raise InputError(what, fix="Quantise a model whose layers are torch's Linear.")
    if not with_head:
        return layers
    names = [name for name, module in linear.items() if module is head]
    if not names or names[0].rpartition(".")[2] != "lm_head":
        called = f"calls its output head {names[0]!r}" if names else "has no linear output head"
        what = f"{type(model).__name__} {called}, and only heads called lm_head are quantised"
        raise InputError(what, where="scheme.head", fix="Set head: false.")
    return layers | {names[0]: linear[names[0]]}


def num_expert_values(model: nn.Module) -> int:
    """Number of values in experts that transformers stores as one 3-D tensor, which are not quantised."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 3)


class CompressedWriter:
    """Writes a model with some layers quantised, each layer as soon as it is rounded.

    All other tensors are copied from the model's files, one at a time. Those that transformers names or shapes
    differently from the files, such as experts, are written in transformers' form, in which it reads a quantised model.
    """

    def __init__(self, model: PreTrainedModel, source: Path, directory: Path, layers: Mapping[str, nn.Linear]) -> None:
        """`layers`: those that will be quantised. Raises InputError if the server would not find the output head."""
        self._model, self._source, self._directory = model, source, directory
        self._head = next((name for name, layer in layers.items() if layer is model.get_output_embeddings()), None)
        is_found = self._head is None or model.config.tie_word_embeddings or f"{self._head}.weight" in self._own
        if not is_found:
            what = f"{type(model).__name__} stores its output head under another name than {self._head}"
            raise InputError(what, where="scheme.head", fix="Set head: false.")
        self._writer = WeightShardWriter(directory)
        self.names: list[str] = []

    @property
    def _own(self) -> frozenset[str]:
        return frozenset(stored_tensors(self._source))

    def keep(self, name: str, stored: StoredLayer) -> None:
        """Writes the stored tensors of one layer."""
        self.names.append(name)
        for end, tensor in stored.items():
            self._writer.add(f"{name}.{end}", tensor)

    def finish(self, scheme: QuantizationScheme) -> tuple[str, ...]:
        """Writes all other tensors and the configuration; returns the names of the quantised layers."""
        model, config = self._model, self._model.config
        if self._head is not None:
            # The quantised head is no longer tied to the embeddings.
            config.tie_word_embeddings = False
        self._write_rest()
        self._writer.close()
        config.quantization_config = _configuration(model, scheme, self.names)
        write_configuration(model, model.dtype, self._directory)
        return tuple(self.names)

    def _write_rest(self) -> None:
        """Copies tensors from the files; 1-D ones (smoothing may have changed norms) and renamed ones from memory."""
        own, state = self._own, self._model.state_dict()
        done = {f"{name}.weight" for name in self.names} | (tied_head(self._model) if self._head is None else set())
        for name, value in state.items():
            if name not in done and (name not in own or value.dim() < 2):
                self._writer.add(name, value)
                done.add(name)
        copy_tensors(self._source, self._writer, done | (own - set(state)), lambda name: state[name].dtype)


def _configuration(model: PreTrainedModel, scheme: QuantizationScheme, layers: list[str]) -> dict[str, Any]:
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        format=infer_module_format(nn.Linear, scheme).value,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=not_quantised(model, layers),
    )
    values: dict[str, Any] = config.model_dump(mode="json")
    return values


def not_quantised(model: nn.Module, layers: list[str]) -> list[str]:
    """Names and patterns of all weights that are not quantised but that a server could treat as quantised layers.

    A server may use linear layers where transformers does not: for routers, and for experts that transformers stores as
    one tensor. A server that finds no scale for such a layer computes with zeros. So all weights of two or more
    dimensions are listed, except embeddings; for a tensor of several experts, all names below it.
    """
    embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    sizes = {name.rpartition(".")[0]: value.dim() for name, value in model.named_parameters() if value.dim() > 1}
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    ignored = sorted((linear | set(sizes)) - set(layers) - embeddings)
    fused = sorted(name for name, size in sizes.items() if size > 2)
    return [*ignored, *(f"re:{re.escape(name)}\\..*" for name in fused)]


# Symmetric rounding of weights to integers with scales.
#
# Shapes: O outputs, I inputs, G groups of inputs.


@dataclass(frozen=True)
class RoundedWeight:
    """A quantised weight: weight ≈ values × scales."""

    values: Tensor
    """(O, I) int8."""
    scales: Tensor
    """(O, 1), in the model's precision, so that servers compute the same whether or not they convert scales to it."""

    def restored(self) -> Tensor:
        """The dequantised weight, (O, I) fp32."""
        return self.values.float() * self.scales.float()


def round_channels(weight: Tensor, scale_dtype: torch.dtype, num_bits: int = 8) -> RoundedWeight:
    """Rounds with one symmetric scale per output, from its largest magnitude; nothing is clipped.

    The lowest integer (such as -128) is not used, so that the range is symmetric.
    """
    largest_value = 2 ** (num_bits - 1) - 1
    scales = scales_for(weight.float().abs().amax(dim=1, keepdim=True), largest_value, scale_dtype)
    values = (weight.float() / scales.float()).round().clamp(-largest_value, largest_value)
    return RoundedWeight(values.to(torch.int8), scales)


def scales_for(largest: Tensor, largest_value: float, dtype: torch.dtype) -> Tensor:
    """`largest` / `largest_value`, rounded to `dtype` before weights are divided by it; 1 if all weights are 0."""
    scales = (largest / largest_value).to(dtype)
    return torch.where(scales > 0, scales, torch.ones_like(scales))
