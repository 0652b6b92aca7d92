"""Symmetric rounding of weights to integers with scales.

Shapes: O outputs, I inputs, G groups of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
