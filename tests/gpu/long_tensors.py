"""8-bit AdamW on a flat tensor of more than 2^31 weights: every weight is updated, and alike."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from place import Place, SkippedError, need

from rayloom.specs.training.optimization import AdamW8bit
from rayloom.train.engines import stored_state
from rayloom.train.engines.optimizers import ParameterGroup, optimizer_over

NEEDED_BYTES = 30 * 10**9


def measured(place: Place) -> dict[str, Any]:
    need("bitsandbytes")
    if place.is_gpu and not place.is_small and torch.cuda.mem_get_info(place.device)[0] < NEEDED_BYTES:
        raise SkippedError(f"needs {NEEDED_BYTES / 1e9:.0f} GB of free memory on the device")
    num_weights = place.of((1 << 31) + (1 << 20) + 7, (1 << 16) + 7)
    flat = torch.ones(num_weights, device=place.device)
    # In the small form a piece is small too, so that there are as many.
    with patch.object(stored_state, "MOST_WEIGHTS_AT_ONCE", place.of(stored_state.MOST_WEIGHTS_AT_ONCE, 1 << 15)):
        pieces = stored_state.pieces_of(flat, is_in_8_bits=True)
    group = ParameterGroup(("all",), (torch.nn.Parameter(flat),), weight_decay=0.0, is_in_8_bits=True)
    optimizer = optimizer_over([group], [pieces], AdamW8bit(type="adamw8bit"))
    for settings in optimizer.param_groups:
        settings["lr"] = 0.1
    gradients = torch.ones_like(flat)
    for piece, gradient in zip(pieces, torch.split(gradients, len(pieces[0])), strict=True):
        piece.grad = gradient
    for _ in range(2):
        optimizer.step()
    place.wait()
    low, high = float(flat.min()), float(flat.max())
    if not (high < 0.9 and high - low < 1e-3):
        raise AssertionError(f"after two equal steps from 1, weights lie between {low} and {high}")
    return {"weights": num_weights, "pieces": len(pieces), "least": round(low, 5), "most": round(high, 5)}
