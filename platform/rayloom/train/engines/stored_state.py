"""Optimiser state of flat tensors in checkpoints: tensors with one value for each weight.

AdamW and Muon store it like that. 8-bit AdamW stores codes, and one scale for each block of 256 weights. A checkpoint
repeats the scale for each weight, so that any range of a parameter can be read on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

BLOCK_WEIGHTS = 256
"""bitsandbytes' block size. It keeps the state of tensors with fewer than 16 blocks in fp32."""
LEAST_WEIGHTS_IN_8_BITS = 4096
MOST_WEIGHTS_AT_ONCE = 1 << 30
"""bitsandbytes indexes with int32: it silently updates only a part of a tensor with 2^31 elements or more."""
CODES = {"code1": ("state1", "qmap1", "absmax1", "scale1"), "code2": ("state2", "qmap2", "absmax2", "scale2")}
SCALES = {"scale1": "absmax1", "scale2": "absmax2"}
PLAIN = {"state1": "state1", "state2": "state2"}


def kinds_in_8_bits(num_weights: int) -> tuple[str, ...]:
    """Names of the state tensors of 8-bit AdamW in a checkpoint, for a flat tensor with this many weights."""
    return (*CODES, *SCALES) if num_weights >= LEAST_WEIGHTS_IN_8_BITS else tuple(PLAIN)


def pieces_of(flat: Tensor, is_in_8_bits: bool) -> tuple[Tensor, ...]:
    """The flat tensor as the optimiser receives it: whole, or split at block boundaries into about equal pieces."""
    if not is_in_8_bits or flat.numel() <= MOST_WEIGHTS_AT_ONCE:
        return (flat,)
    count = -(-flat.numel() // MOST_WEIGHTS_AT_ONCE)
    return torch.split(flat, -(-flat.numel() // (count * BLOCK_WEIGHTS)) * BLOCK_WEIGHTS)


def kept(optimizer: Optimizer, flat: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Optimiser state of a flat tensor by kind, (n,) each; empty before the first step."""
    state: dict[str, Any] = optimizer.state.get(flat, {})
    if "qmap1" not in state:
        return {kind: state[kind] for kind in kinds if kind in state}
    codes = {kind: state[names[0]] for kind, names in CODES.items()}
    scales = {kind: state[name].repeat_interleave(BLOCK_WEIGHTS)[: flat.numel()] for kind, name in SCALES.items()}
    return codes | scales


def blank(flat: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Tensors to read a checkpoint's state into. Codes start at −1, which stays in the padding between parameters."""
    return {kind: torch.full_like(flat, -1.0 if kind in CODES else 0.0) for kind in kinds}


def put(optimizer: Any, place: tuple[int, int], flat: Tensor, tensors: dict[str, Tensor], num_updates: int) -> None:
    """Sets the optimiser's state of a flat tensor. `place`: (parameter group, index of the piece in it)."""
    if not hasattr(optimizer, "init_state"):
        optimizer.state[flat].update(tensors, step=torch.tensor(float(num_updates), device=flat.device))
        return
    optimizer.init_state(optimizer.param_groups[place[0]], flat, *place)
    state = optimizer.state[flat]
    state["step"] = num_updates
    for kind, tensor in tensors.items():
        if kind in CODES:
            codes, table, *_ = CODES[kind]
            nothing = int(state[table].abs().argmin())
            state[codes].copy_(torch.where(tensor < 0, nothing, tensor))
        elif kind in SCALES:
            blocks = torch.nn.functional.pad(tensor, (0, -len(tensor) % BLOCK_WEIGHTS)).view(-1, BLOCK_WEIGHTS)
            state[SCALES[kind]].copy_(blocks.amax(dim=1))
        else:
            state[kind].copy_(tensor)
