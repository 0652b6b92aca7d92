"""Finds the part of a model that a parameter or module belongs to, by the names in transformers' architectures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from torch import nn

Part = Literal["attention", "feed_forward", "embeddings", "norms", "head", "other"]

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_KEYS = {"k_proj", "key", "k", "k_lin", "key_proj"}
_VALUES = {"v_proj", "value", "v", "v_lin", "value_proj"}
_ATTENTION_OUTPUTS = {"o_proj", "out_proj", "o", "out_lin", "c_proj", "dense"}
_FEED_FORWARD_OUTPUTS = {"down_proj", "fc2", "fc_out", "wo", "lin2", "c_proj", "dense_4h_to_h", "w2"}


def layer_of(name: str) -> int | None:
    """Index of the layer that a module or parameter is in, from the input; None outside the layers."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer: `nn.Linear` and its quantised subclasses, or GPT-2's `Conv1D`."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers inside the model's layers, by name."""
    for name, module in model.named_modules():
        if is_linear(module) and layer_of(name) is not None:
            yield name, module


def is_in_attention(name: str) -> bool:
    return _ATTENTION.search(_inside_layer(name)) is not None


def keys_and_values(model: nn.Module) -> list[str]:
    """Names of the linear layers that compute keys and values."""
    return [name for name, _ in linear_layers(model) if _leaf(name) in _KEYS | _VALUES]


def outputs_of(model: nn.Module, part: Literal["attention", "feed_forward"]) -> list[str]:
    """Names of the output projections of attention or feed-forward, which write to the residual stream."""
    return [name for name, _ in linear_layers(model) if _writes(name) == part]


def _writes(name: str) -> str | None:
    if is_in_attention(name):
        return "attention" if _leaf(name) in _ATTENTION_OUTPUTS else None
    # In BERT it is `output.dense`; `intermediate.dense` is the layer before.
    is_output = _leaf(name) in _FEED_FORWARD_OUTPUTS or name.endswith(".output.dense")
    return "feed_forward" if is_output else None


def part_of(name: str, model: nn.Module) -> Part:
    """The part that the parameter of this name belongs to."""
    module = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, nn.Embedding):
        return "embeddings"
    if "norm" in type(module).__name__.lower():
        return "norms"
    if layer_of(name) is not None:
        return "attention" if is_in_attention(name) else "feed_forward"
    prefix = getattr(model, "base_model_prefix", "")
    return "other" if prefix and name.startswith(f"{prefix}.") else "head"


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _inside_layer(name: str) -> str:
    match = _LAYER.search(name)
    return name[match.end() :] if match else name
