"""The group of training processes, and the collectives that the loop uses besides those of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class Group:
    """One process' view of the group: its rank, the number of processes, and its device."""

    rank: int
    num_workers: int
    device: torch.device
    control: Any = None
    """A gloo group for small values on the CPU, so that exchanging them does not synchronise with the device."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def agreed(self, *values: float) -> tuple[float, ...]:
        """Each value summed over all processes. Integers up to 2^53 are exact."""
        if self.num_workers == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return tuple(tensor.tolist())

    def summed(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all processes in place, bitwise equal on all of them."""
        if self.num_workers > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_in_background(self, tensor: Tensor) -> Any:
        """Begins to sum the tensor over all processes in place; `wait()` of the result ends it."""
        return dist.all_reduce(tensor, async_op=True)

    def from_first(self, value: Any) -> Any:
        """The first process' value, in every process."""
        if self.num_workers == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """Every process' value, in the order of ranks."""
        values = [value] * self.num_workers
        if self.num_workers > 1:
            dist.all_gather_object(values, value, group=self.control)
        return values

    def wait_for_all(self) -> None:
        if self.num_workers > 1:
            dist.barrier(group=self.control)


def backend_for(device: torch.device) -> str:
    """The torch.distributed backend for a device: NCCL for GPUs, as gloo is slow or incomplete there; else gloo."""
    return "nccl" if device.type == "cuda" else "gloo"


def current_group(device: torch.device, timeout_seconds: float = 1800.0) -> Group:
    """The process group that Ray Train or torchrun set up, or a group of one process if there is none."""
    if not dist.is_initialized():
        return Group(0, 1, device)
    control = None
    if dist.get_world_size() > 1:
        control = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
    return Group(dist.get_rank(), dist.get_world_size(), device, control)
