"""How large a model is, from its specification or from the headers of its files, without loading anything.

Shapes: L layers, D hidden size, F feed-forward size, H heads, V vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
from rayloom.specs.adapters import LoraAdapter
from rayloom.specs.architectures import Architecture

_LINEAR = re.compile(r"\.(\w+)\.weight$")


@dataclass(frozen=True)
class ModelSize:
    """Counts of parameters, and the few dimensions that memory and arithmetic depend on."""

    parameters: int
    """Each counted once, tied ones too."""
    trained: int
    multiplied: int
    """Parameters that every token is multiplied with: matrices and the head, but no table that is only looked up."""
    num_layers: int
    hidden_size: int
    feed_forward_size: int
    vocabulary_size: int
    num_heads: int
    num_key_value_heads: int
    multiplied_in_decoder: int = 0
    """Of an encoder-decoder: those of `multiplied` that only what it writes is multiplied with."""


def size_of_architecture(architecture: Architecture, vocabulary_size: int) -> ModelSize:
    """Counted on the model itself, built without memory for its weights."""
    import torch

    from rayloom.train.architectures import config_of, model_of

    with torch.device("meta"):
        model = model_of(config_of(architecture, vocabulary_size, bos_token_id=1, eos_token_id=1, pad_token_id=0))
    return replace(size_of_model(model), feed_forward_size=architecture.feed_forward)


def size_of_model(model: Any) -> ModelSize:
    """The size of a model that exists, on whatever device."""
    import torch

    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    multiplied, in_decoder = 0, 0
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.dim() == 2 and not isinstance(module, torch.nn.Embedding):
            # Quantised weights lie packed; what they are multiplied as stands beside them.
            count = getattr(module, "in_features", 0) * getattr(module, "out_features", 0) or weight.numel()
            multiplied += count
            in_decoder += count if name.startswith(("decoder.", "lm_head")) else 0
    config = model.config
    heads = int(config.num_attention_heads)
    return ModelSize(
        parameters=sum(count for count, _ in sizes),
        trained=sum(count for count, is_trained in sizes if is_trained),
        multiplied=multiplied,
        num_layers=int(config.num_hidden_layers),
        hidden_size=int(config.hidden_size),
        feed_forward_size=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
        vocabulary_size=int(config.vocab_size),
        num_heads=heads,
        num_key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        multiplied_in_decoder=in_decoder if getattr(config, "is_encoder_decoder", False) else 0,
    )


def size_of_folder(folder: Path, lora: LoraAdapter | None = None) -> ModelSize:
    """The size of a transformers folder, with a LoRA adapter on it where one is given."""
    config = _config(folder)
    shapes = tensor_shapes(folder)
    parameters = sum(_count(shape) for shape in shapes.values())
    vocabulary, hidden = int(config["vocab_size"]), _first(config, "hidden_size", "n_embd", "d_model")
    # A tied head stands in the files once, as the table; an untied one stands beside a table that is only looked up.
    is_tied = not any(name.startswith("lm_head.") for name in shapes)
    matrices = sum(_count(shape) for shape in shapes.values() if len(shape) == 2)
    heads = _first(config, "num_attention_heads", "n_head", "num_heads")
    return ModelSize(
        parameters=parameters + (0 if lora is None else _lora_parameters(shapes, lora)),
        trained=parameters if lora is None else _lora_parameters(shapes, lora),
        multiplied=matrices - (0 if is_tied else vocabulary * hidden),
        num_layers=_first(config, "num_hidden_layers", "n_layer", "num_layers"),
        hidden_size=hidden,
        feed_forward_size=_first(config, "intermediate_size", "n_inner", "d_ff") or 4 * hidden,
        vocabulary_size=vocabulary,
        num_heads=heads,
        num_key_value_heads=int(config.get("num_key_value_heads") or heads),
    )


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape, from the headers of the folder's safetensors files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        shapes |= {name: tuple(facts["shape"]) for name, facts in header.items() if name != "__metadata__"}
    if not shapes:
        fix = "Name a folder or artifact with config.json and model.safetensors."
        raise InputError("The base is not a model: it has no safetensors weights", where=str(folder), fix=fix)
    return shapes


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        fix = "Name a folder or artifact with config.json and model.safetensors."
        raise InputError("The base is not a model: it has no config.json", where=str(folder), fix=fix) from None
    return config


def _first(config: Mapping[str, Any], *names: str) -> int:
    """The value under the first of the names that the configuration has: families name the same thing differently."""
    return next(int(config[name] or 0) for name in names if name in config)


def _lora_parameters(shapes: Mapping[str, tuple[int, ...]], lora: LoraAdapter) -> int:
    return sum(lora.rank * sum(shape) for name, shape in shapes.items() if len(shape) == 2 and _is_target(name, lora))


def _is_target(name: str, lora: LoraAdapter) -> bool:
    module = _LINEAR.search(name)
    if module is None or "embed" in name or name.startswith("lm_head."):
        return False
    return lora.target_modules == "all-linear" or module[1] in lora.target_modules


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
