"""Quantised models in compressed-tensors format, which transformers and vLLM read."""

from __future__ import annotations

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
from rayloom.models.adapters import HEADS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

StoredLayer = dict[str, Tensor]
"""What stands in the file for one layer's weight, by the end of its name: `weight`, `weight_scale`."""


def linear_layers(model: PreTrainedModel, with_head: bool = False) -> dict[str, nn.Linear]:
    """The layers to quantise, by name: every linear one but a task's head, and the output head only if asked for.

    That one is usually one tensor with the embeddings, and its rounding goes straight into the next token's choice.
    Raises InputError where there is none.
    """
    head = None if with_head else model.get_output_embeddings()
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and name.partition(".")[0] not in HEADS
    }
    if not found:
        what = f"{type(model).__name__} has no linear layer to quantise"
        raise InputError(what, fix="Quantise a model whose layers are torch's Linear.")
    return found


def write_compressed(
    model: PreTrainedModel, scheme: QuantizationScheme, stored: Mapping[str, StoredLayer], directory: Path
) -> None:
    """Saves the model with its layers as they are in `stored`; everything else stays as it is in memory."""
    state: dict[str, Tensor] = dict(model.state_dict())
    for name, tensors in stored.items():
        del state[f"{name}.weight"]
        state |= {f"{name}.{end}": tensor for end, tensor in tensors.items()}
    if any(model.get_submodule(name) is model.get_output_embeddings() for name in stored):
        # From here on the embeddings have a tensor of their own.
        model.config.tie_word_embeddings = False
    model.config.quantization_config = _configuration(model, scheme, stored)
    model.save_pretrained(directory, state_dict=state)


def _configuration(
    model: PreTrainedModel, scheme: QuantizationScheme, layers: Mapping[str, StoredLayer]
) -> dict[str, Any]:
    kept = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in layers]
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        format=infer_module_format(nn.Linear, scheme).value,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=kept,
    )
    values: dict[str, Any] = config.model_dump(mode="json")
    return values
