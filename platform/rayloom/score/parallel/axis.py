"""The workers with which one shares the computation of the same rows, and what they exchange while they compute.

Where each worker has a part of a matrix, values enter that part on all of them and leave it as a sum (Shoeybi et al.
2019, Megatron-LM, figure 3). Both are exact for autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class Axis:
    """A worker's place among workers that share something; alone by default."""

    rank: int = 0
    size: int = 1
    group: Any = None
    """Their torch process group; None for all workers, or if there is only one."""

    def share(self, count: int) -> tuple[int, int]:
        """First of `count` things, and one past the last, that are this worker's part."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def summed(self, tensor: Tensor) -> Tensor:
        """The tensor summed over the workers in place, bitwise equal on all of them."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """As `summed`, but the maximum."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return tensor

    def swapped(self, tensor: Tensor) -> Tensor:
        """(workers, …) of (workers, …): from each of them what it has at this worker's place."""
        if self.size == 1:
            return tensor
        received = torch.empty_like(tensor)
        dist.all_to_all_single(received, tensor, group=self.group)
        return received

    def routed(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """(rows, …) from all workers in their order. Of `rows`, the first `sent[0]` go to the first one, and so on."""
        if self.size == 1:
            return rows
        out = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(out, rows.contiguous(), list(received), list(sent), group=self.group)
        return out

    def sum_in_background(self, tensor: Tensor) -> Any:
        """Begins to sum the tensor over the workers in place; `wait()` of the result ends it."""
        return dist.all_reduce(tensor, group=self.group, async_op=True)

    def sent_by(self, rank: int, tensor: Tensor) -> Tensor:
        """The tensor of one of the workers, put into those of the others."""
        if self.size > 1:
            dist.broadcast(tensor, group=self.group, group_src=rank)
        return tensor

    def send(self, rank: int, tensor: Tensor) -> None:
        """Sends the tensor to one of the workers, which calls `received`."""
        dist.send(tensor.contiguous(), group=self.group, group_dst=rank)

    def received(self, rank: int, tensor: Tensor) -> Tensor:
        """The tensor, filled with what one of the workers sends."""
        dist.recv(tensor, group=self.group, group_src=rank)
        return tensor

    def from_other(self, rank: int, tensor: Tensor) -> Tensor:
        """What another worker gives, which calls this with this worker's rank and a tensor of the same shape."""
        received = torch.empty_like(tensor)
        both = [
            dist.P2POp(dist.isend, tensor, group=self.group, group_peer=rank),
            dist.P2POp(dist.irecv, received, group=self.group, group_peer=rank),
        ]
        for work in dist.batch_isend_irecv(both):
            work.wait()
        return received


ALONE = Axis()


def entering(tensor: Tensor, axis: Axis) -> Tensor:
    """The tensor, which all workers have alike; its gradient is the sum of what each worker's part makes of it."""
    return _Entering.apply(tensor, axis) if axis.size > 1 else tensor  # type: ignore[no-untyped-call]


def left(tensor: Tensor, axis: Axis) -> Tensor:
    """The sum of all workers' tensors; its gradient, which all workers have alike, is that of each."""
    return _Left.apply(tensor, axis) if axis.size > 1 else tensor  # type: ignore[no-untyped-call]


def exchanged(tensor: Tensor, axis: Axis, split: int, joined: int) -> Tensor:
    """The tensor cut along one dimension, with what all workers have of this worker's part joined along another."""
    return _Exchanged.apply(tensor, axis, split, joined)  # type: ignore[no-any-return, no-untyped-call]


def routed(rows: Tensor, axis: Axis, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    """See `Axis.routed`; gradients go the way back."""
    return _Routed.apply(rows, axis, sent, received)  # type: ignore[no-any-return, no-untyped-call]


class _Routed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, axis: Axis, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        ctx.way_back = (axis, received, sent)
        return axis.routed(rows, sent, received)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return routed(grads[0], *ctx.way_back), None, None, None


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, axis: Axis, split: int, joined: int) -> Tensor:
        ctx.way_back = (axis, joined, split)
        parts = axis.swapped(torch.stack(tensor.chunk(axis.size, dim=split)))
        return torch.cat(parts.unbind(), dim=joined)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return exchanged(grads[0], *ctx.way_back), None, None, None


class _Entering(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.axis.summed(grads[0].clone(memory_format=torch.contiguous_format)), None


class _Left(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, tensor: Tensor, axis: Axis) -> Tensor:
        return axis.summed(tensor.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
