"""NF4 quantisation by bitsandbytes, in the form that transformers reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from rayloom.export.model_folder import ModelFolder
from rayloom.export.schemes.compressed import linear_layers
from rayloom.models.quantised import load_quantised

BLOCK, SECOND_BLOCK = 64, 256
"""Weights per scale, and scales per second-level scale, as in bitsandbytes."""
TABLES_BYTES = (256 + 16) * 4
"""The code books of the 8-bit scales and the 4-bit weights, stored with each layer."""
FACTS_BYTES = 140
"""Approximate size of a layer's description in JSON."""


def write_nf4(folder: ModelFolder, directory: Path) -> tuple[str, ...]:
    """Writes the model with its linear layers in NF4; returns their names."""
    model: Any = load_quantised(folder.model_class(), folder.path, "nf4", torch.bfloat16)
    model.save_pretrained(directory)
    return tuple(linear_layers(model))


def stored_bytes(shapes: Iterable[tuple[int, ...]]) -> int:
    """Approximate size in bytes of layers of these (outputs, inputs) shapes."""
    total = 0
    for outputs, inputs in shapes:
        blocks = -(-outputs * inputs // BLOCK)
        total += outputs * inputs // 2 + blocks + 4 * -(-blocks // SECOND_BLOCK) + TABLES_BYTES + FACTS_BYTES
    return total
