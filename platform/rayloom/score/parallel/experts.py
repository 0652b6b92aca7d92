"""Experts of a mixture spread over workers: tokens go to the workers of their experts, and the results come back.

No expert has a capacity, so no token is dropped and the result is that of one worker. Of tokens that several workers
have alike (tensor parallelism), each sends a part.

Shapes: T tokens of this worker, K experts of a token, D hidden size, R rows that come to this worker's experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rayloom.score.parallel.axis import ALONE, Axis, entering, left, routed


def spread_experts(experts: Any, axis: Axis, tensor: Axis = ALONE) -> None:
    """Makes a module of transformers with some of a layer's experts give what all of them give.

    Its own code computes this worker's experts, by whichever kernel the model uses. `tensor`: the workers of the axis
    that have the same tokens.
    """
    compute, num_experts = experts.forward, experts.num_experts
    experts.num_experts = num_own = num_experts // axis.size

    def forward(hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """(T, D) of (T, D) hidden states, (T, K) experts and (T, K) their weights."""
        if tensor.size == 1:
            return of_own_tokens(hidden, chosen, weights)
        begin, end = tensor.share(len(hidden))
        hidden, weights = (entering(one, tensor)[begin:end] for one in (hidden, weights))
        made = of_own_tokens(hidden, chosen[begin:end], weights)
        return left(functional.pad(made, (0, 0, begin, len(chosen) - end)), tensor)

    def of_own_tokens(hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        # Rows in the order of experts are in that of their workers.
        order = chosen.flatten().argsort(stable=True)
        counts = _counts(chosen.flatten(), num_experts).view(axis.size, num_own)
        coming = axis.swapped(counts)
        sent, received = torch.stack([counts.sum(dim=1), coming.sum(dim=1)]).tolist()
        rows = routed(hidden[order // chosen.shape[1]], axis, sent, received)
        numbers = torch.arange(num_own, device=hidden.device).repeat(axis.size)
        made = _of_own(compute, rows, numbers.repeat_interleave(coming.flatten(), output_size=len(rows)))
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        outputs = routed(made, axis, received, sent)[back].view(*chosen.shape, -1)
        return (outputs * weights[..., None]).sum(dim=1).to(hidden.dtype)

    experts.forward = forward


def _counts(numbers: Tensor, num_experts: int) -> Tensor:
    return numbers.new_zeros(num_experts).scatter_add_(0, numbers, torch.ones_like(numbers))


def _of_own(compute: Any, rows: Tensor, numbers: Tensor) -> Tensor:
    """(R, D) of (R, D) rows and (R,) their experts."""
    if not len(rows):
        # One row of nothing, so that weights have a gradient and this worker takes part in the backward pass.
        rows, numbers = rows.sum(dim=0, keepdim=True), numbers.new_zeros(1)
        return _of_own(compute, rows, numbers)[:0]
    return compute(rows, numbers[:, None], rows.new_ones(len(rows), 1))  # type: ignore[no-any-return]
