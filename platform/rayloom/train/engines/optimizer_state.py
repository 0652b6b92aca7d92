"""Optimiser state as tensors that have a value for each weight, which is what checkpoints hold.

AdamW and Muon keep it so. AdamW in 8 bits keeps codes and, for each block of 256 weights, their scale; the scale is
written once for each weight here, so that any range of any parameter has what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

BLOCK_WEIGHTS = 256
"""bitsandbytes' block, and below 16 of them it keeps fp32."""
LEAST_WEIGHTS_IN_8_BITS = 4096
MOST_WEIGHTS_AT_ONCE = 1 << 30
"""bitsandbytes counts in int32: of a tensor past 2^31 it updates a part only, without an error."""
CODES = {"code1": ("state1", "qmap1", "absmax1", "scale1"), "code2": ("state2", "qmap2", "absmax2", "scale2")}
SCALES = {"scale1": "absmax1", "scale2": "absmax2"}
PLAIN = {"state1": "state1", "state2": "state2"}


def kinds_in_8_bits(num_weights: int) -> tuple[str, ...]:
    """Names of what a checkpoint holds of a flat tensor of so many weights."""
    return (*CODES, *SCALES) if num_weights >= LEAST_WEIGHTS_IN_8_BITS else tuple(PLAIN)


def pieces_of(flat: Tensor, is_in_8_bits: bool) -> tuple[Tensor, ...]:
    """The flat tensor as the optimiser is given it: whole, or cut at whole blocks into pieces of about one size."""
    if not is_in_8_bits or flat.numel() <= MOST_WEIGHTS_AT_ONCE:
        return (flat,)
    count = -(-flat.numel() // MOST_WEIGHTS_AT_ONCE)
    return torch.split(flat, -(-flat.numel() // (count * BLOCK_WEIGHTS)) * BLOCK_WEIGHTS)


def kept(optimizer: Optimizer, flat: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """(n,) each; nothing where no step was made yet."""
    state: dict[str, Any] = optimizer.state.get(flat, {})
    if "qmap1" not in state:
        return {kind: state[kind] for kind in kinds if kind in state}
    codes = {kind: state[names[0]] for kind, names in CODES.items()}
    scales = {kind: state[name].repeat_interleave(BLOCK_WEIGHTS)[: flat.numel()] for kind, name in SCALES.items()}
    return codes | scales


def blank(flat: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Tensors to read a checkpoint's state into. −1 in places between parameters, which no checkpoint has."""
    return {kind: torch.full_like(flat, -1.0 if kind in CODES else 0.0) for kind in kinds}


def put(optimizer: Any, place: tuple[int, int], flat: Tensor, tensors: dict[str, Tensor], num_updates: int) -> None:
    """Makes this the optimiser's state of the flat tensor, the `place[1]`-th of group `place[0]`."""
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
