"""INT4 rounding in groups with error compensation (GPTQ, Frantar et al. 2022, arXiv:2210.17323).

Weights are rounded input by input; the weights that are not rounded yet are updated to compensate the error in the
layer's output on calibration rows. Inputs with the largest activations are rounded first (act-order), but groups are
made of consecutive inputs, so that nothing is reordered in the file.

Shapes: O outputs, I inputs, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

INT4_RANGE = (-8, 7)
DAMPING_SHARE = 0.01
"""Share of the mean diagonal that is added to the diagonal, so that the matrix is invertible (section 4)."""
BLOCK_INPUTS = 128
"""Weights after a block are updated once per block: the same result with larger matrix products (section 4)."""
WEIGHT_COPIES, PRODUCT_COPIES = 4, 5
"""fp32 copies that are alive at once, as measured in tests/unit/test_gptq.py."""
SHRINKING = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.76, 0.73, 0.7)
"""Factors of the largest scale that are tried: clipping a group's largest weight can reduce the total error."""


@dataclass(frozen=True)
class GroupedWeight:
    """A quantised weight: weight ≈ values × scale, one scale for each output and group."""

    values: Tensor
    """(O, I) int8 between −8 and 7."""
    scales: Tensor
    """(O, G), in the model's precision."""

    def restored(self) -> Tensor:
        """The dequantised weight, (O, I) fp32."""
        return self.values.float() * self.scales.float().repeat_interleave(self.group_size, dim=1)

    @property
    def group_size(self) -> int:
        return self.values.shape[1] // self.scales.shape[1]


def round_to_nearest(weight: Tensor, group_size: int, scale_dtype: torch.dtype) -> GroupedWeight:
    """Round-to-nearest, GPTQ's baseline; used if there are no calibration rows."""
    scales = group_scales(weight, torch.ones(weight.shape[1], device=weight.device), group_size, scale_dtype)
    steps = scales.float().repeat_interleave(group_size, dim=1)
    return GroupedWeight(_rounded(weight.float(), steps).to(torch.int8), scales)


def gptq(weight: Tensor, products: Tensor, group_size: int, scale_dtype: torch.dtype) -> GroupedWeight:
    """The (O, I) weight quantised by GPTQ. `products`: (I, I) fp32, the sum of x xᵀ over all positions' inputs x."""
    weight = weight.float().clone()
    activity = products.diagonal().clone()
    scales = group_scales(weight, activity, group_size, scale_dtype)
    order = torch.argsort(activity, descending=True, stable=True)
    steps = scales.float().repeat_interleave(group_size, dim=1)[:, order]
    values = _rounded_with_feedback(weight[:, order], steps, _inverse_factor(products[order][:, order]))
    return GroupedWeight(values[:, torch.argsort(order)].to(torch.int8), scales)


def peak_bytes(outputs: int, inputs: int) -> int:
    """Bytes that `gptq` takes at most, beside the weight and the products that it is given.

    Copies of the weight are its steps and both in another order; of the products those in another order, damped,
    inverted and factored.
    """
    return 4 * (WEIGHT_COPIES * outputs * inputs + PRODUCT_COPIES * inputs * inputs)


def group_scales(weight: Tensor, activity: Tensor, group_size: int, dtype: torch.dtype) -> Tensor:
    """(O, G) scales with the least squared error, weighted by each input's `activity` (sum of squares)."""
    outputs, inputs = weight.shape
    groups = weight.float().reshape(outputs, inputs // group_size, group_size)
    importance = activity.reshape(1, -1, group_size)
    largest = groups.abs().amax(dim=2, keepdim=True)
    best_scales = torch.ones_like(largest)
    best_errors = torch.full_like(largest, torch.inf)
    for share in SHRINKING:
        # 7.5 is half the range from -8 to 7: a positive maximum is clipped by half a step, a negative one is not.
        scales = (largest * share / 7.5).to(dtype).float()
        scales = torch.where(scales > 0, scales, torch.ones_like(scales))
        errors = ((_rounded(groups, scales) * scales - groups).square() * importance).sum(dim=2, keepdim=True)
        better = errors < best_errors
        best_scales = torch.where(better, scales, best_scales)
        best_errors = torch.where(better, errors, best_errors)
    return best_scales[:, :, 0].to(dtype)


def _rounded(weight: Tensor, steps: Tensor) -> Tensor:
    return (weight / steps).round_().clamp_(*INT4_RANGE)


def _inverse_factor(products: Tensor) -> Tensor:
    """(I, I) upper Cholesky factor of the damped inverse. Row i: how later weights compensate weight i's error."""
    damped = products.clone()
    diagonal = damped.diagonal()
    diagonal += DAMPING_SHARE * diagonal.mean()
    diagonal.clamp_(min=torch.finfo(torch.float32).tiny)  # a layer whose inputs were all zero
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _rounded_with_feedback(weight: Tensor, steps: Tensor, factor: Tensor) -> Tensor:
    """(O, I) integer values; overwrites `weight`."""
    values = torch.empty_like(weight)
    for begin, end in _blocks(weight.shape[1]):
        inside = factor[begin:end, begin:end]
        errors = torch.empty_like(weight[:, begin:end])
        for column_index in range(end - begin):
            column, step = weight[:, begin + column_index], steps[:, begin + column_index]
            value = _rounded(column, step)
            values[:, begin + column_index] = value
            error = (column - value * step) / inside[column_index, column_index]
            weight[:, begin + column_index : end] -= error[:, None] * inside[column_index, column_index:]
            errors[:, column_index] = error
        weight[:, end:] -= errors @ factor[begin:end, end:]
    return values


def _blocks(num_inputs: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, num_inputs, BLOCK_INPUTS):
        yield begin, min(begin + BLOCK_INPUTS, num_inputs)
