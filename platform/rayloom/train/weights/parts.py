"""Which part of a whole parameter a worker has, and the whole one of the parts of all workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rayloom.score.parallel.axis import Axis

Along = Literal["tensor", "expert"]
"""The axes of workers along which parameters are cut."""


@dataclass(frozen=True)
class Part:
    """Which part of a whole parameter a worker has: from `begin` to `end` along a dimension."""

    shape: torch.Size
    """Of the whole parameter."""
    dim: int
    begin: int
    end: int
    along: Along = "tensor"
    """The axis whose other workers have the other parts."""

    def of(self, whole: Tensor) -> Tensor:
        return whole.narrow(self.dim, self.begin, self.end - self.begin)


def part_of(parameter: Tensor) -> Part | None:
    """The part that a parameter is; None if it is whole."""
    return getattr(parameter, "part", None)


def along_of(parameter: Tensor) -> Along | None:
    """The axis along which a parameter is cut; None if it is whole."""
    part = part_of(parameter)
    return None if part is None else part.along


def whole(parameter: nn.Parameter, own: Tensor, axis: Axis) -> Tensor:
    """A whole parameter on the CPU, of what each worker has of it. All workers of the axis call it."""
    part = part_of(parameter)
    if part is None:
        return own
    parts = []
    for rank in range(axis.size):
        begin, end = Axis(rank, axis.size).share(part.shape[part.dim])
        shape = [*part.shape[: part.dim], end - begin, *part.shape[part.dim + 1 :]]
        parts.append(axis.sent_by(rank, own.contiguous() if rank == axis.rank else own.new_empty(shape)))
    return torch.cat([one.cpu() for one in parts], dim=part.dim)
