"""Quantised models in compressed-tensors format, which transformers and vLLM read."""

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
from rayloom.export.shard_writer import ShardWriter, copy_tensors, tied_head, write_configuration
from rayloom.models.adapters import HEADS
from rayloom.models.weight_files import stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

StoredLayer = dict[str, Tensor]
"""What stands in the file for one layer's weight, by the end of its name: `weight`, `weight_scale`."""


def linear_layers(model: PreTrainedModel, with_head: bool = False) -> dict[str, nn.Linear]:
    """The layers to quantise, by name: every linear one but a task's head, and the output head only if asked for.

    That one is usually one tensor with the embeddings, and its rounding goes straight into the next token's choice.
    Raises InputError where there is none, or where the head is not what the server calls `lm_head`.
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
    """Numbers in the experts that transformers keeps as one tensor of three dimensions, which are not quantised."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 3)


class CompressedWriter:
    """Writes a model with some layers quantised, each layer as soon as it is rounded.

    Everything else is copied from the model's files, one tensor at a time. What transformers keeps otherwise than the
    files do, such as the experts of a mixture, is written as transformers keeps it: so it reads a quantised model.
    """

    def __init__(self, model: PreTrainedModel, source: Path, directory: Path, layers: Mapping[str, nn.Linear]) -> None:
        """`layers`: those that will be kept. Raises InputError where a server would not find the head."""
        self._model, self._source, self._directory = model, source, directory
        self._head = next((name for name, layer in layers.items() if layer is model.get_output_embeddings()), None)
        is_found = self._head is None or model.config.tie_word_embeddings or f"{self._head}.weight" in self._own
        if not is_found:
            what = f"{type(model).__name__} stores its output head under another name than {self._head}"
            raise InputError(what, where="scheme.head", fix="Set head: false.")
        self._writer = ShardWriter(directory)
        self.names: list[str] = []

    @property
    def _own(self) -> frozenset[str]:
        return frozenset(stored_tensors(self._source))

    def keep(self, name: str, stored: StoredLayer) -> None:
        """Takes a layer as it stands in the file."""
        self.names.append(name)
        for end, tensor in stored.items():
            self._writer.add(f"{name}.{end}", tensor)

    def finish(self, scheme: QuantizationScheme) -> tuple[str, ...]:
        """Writes the rest and the configuration; returns the names of the layers."""
        model, config = self._model, self._model.config
        if self._head is not None:
            # From here on the embeddings have a tensor of their own.
            config.tie_word_embeddings = False
        self._write_rest()
        self._writer.close()
        config.quantization_config = _configuration(model, scheme, self.names)
        write_configuration(model, model.dtype, self._directory)
        return tuple(self.names)

    def _write_rest(self) -> None:
        """From the files where they have it as it is in memory; norms may have been divided by smoothing."""
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
    """Names and patterns of all weights that a server could take for quantised layers, and that are not.

    What is a linear layer for a server need not be one for transformers: routers, and experts that transformers keeps
    as one tensor. A server that finds no scale for such a layer computes with zeros. So every weight with two
    dimensions or more counts, except embeddings, and what is kept as one tensor counts with all names below it.
    """
    embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    sizes = {name.rpartition(".")[0]: value.dim() for name, value in model.named_parameters() if value.dim() > 1}
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    ignored = sorted((linear | set(sizes)) - set(layers) - embeddings)
    fused = sorted(name for name, size in sizes.items() if size > 2)
    return [*ignored, *(f"re:{re.escape(name)}\\..*" for name in fused)]
