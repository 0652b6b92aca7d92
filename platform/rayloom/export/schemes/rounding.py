"""Weights as integers and scales.

Shapes: O outputs, I inputs, G groups of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RoundedWeight:
    """weight ≈ values × scales."""

    values: Tensor
    """(O, I) int8."""
    scales: Tensor
    """(O, 1), in the precision of the model: servers that keep scales in it and those that do not compute the same."""

    def restored(self) -> Tensor:
        """(O, I) fp32."""
        return self.values.float() * self.scales.float()


def round_channels(weight: Tensor, scale_dtype: torch.dtype, num_bits: int = 8) -> RoundedWeight:
    """One symmetric scale for each output, taken from its largest magnitude; nothing is clipped.

    The largest negative value is left out, so that the range is the same on both sides of zero.
    """
    largest_value = 2 ** (num_bits - 1) - 1
    scales = scales_for(weight.float().abs().amax(dim=1, keepdim=True), largest_value, scale_dtype)
    values = (weight.float() / scales.float()).round().clamp(-largest_value, largest_value)
    return RoundedWeight(values.to(torch.int8), scales)


def scales_for(largest: Tensor, largest_value: float, dtype: torch.dtype) -> Tensor:
    """`largest` / `largest_value`, rounded to `dtype` before anything is divided by it; 1 where every weight is 0."""
    scales = (largest / largest_value).to(dtype)
    return torch.where(scales > 0, scales, torch.ones_like(scales))
