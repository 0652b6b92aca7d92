"""The group of training processes, and the collectives that the loop uses besides those of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from rayloom.errors import InputError
from rayloom.score.parallel.axis import ALONE, Axis
from rayloom.specs.training.endurance import Sharding
from rayloom.train.weights.parts import Along


@dataclass(frozen=True)
class Group:
    """One process' view of the group: its rank, the number of processes, and its device."""

    rank: int
    num_workers: int
    device: torch.device
    control: Any = None
    """A gloo group for small values on the CPU, so that exchanging them does not synchronise with the device."""
    tensor: Axis = ALONE
    """The workers that have a part of every matrix each, and compute the same rows. Their ranks follow each other."""
    context: Axis = ALONE
    """The workers that have a part of the positions of the same rows each."""
    copies_group: Any = None
    """torch's group of `copies`; None if all workers hold the same weights."""
    expert: Axis = ALONE
    """The workers that have some of the experts of each mixture each. Their ranks follow each other; their rows differ,
    but for those of a tensor or context axis."""
    expert_copies: Axis = ALONE
    """Its place among those with the same experts, over which their gradients are summed."""
    pipeline: Axis = ALONE
    """The workers that have some of the layers each, in the order of the layers: its stages."""

    @property
    def in_stage(self) -> Axis:
        """This worker's place among those with the same layers. Their ranks follow each other."""
        size = self.num_workers // self.pipeline.size
        return Axis(self.rank % size, size)

    @property
    def rows(self) -> Axis:
        """Its place among those that compute other rows (data parallelism)."""
        together = self.tensor.size * self.context.size
        return Axis(self.in_stage.rank // together, self.in_stage.size // together)

    @property
    def copies(self) -> Axis:
        """Its place among those with the same part of the weights, over which losses and gradients are summed."""
        own, size = self.in_stage, self.tensor.size
        return Axis(own.rank // size, own.size // size, self.copies_group)

    def axis_of(self, along: Along | None) -> Axis:
        """The workers that have the parts of a parameter which is cut along this axis; alone for a whole one."""
        axes = {None: ALONE, "tensor": self.tensor, "expert": self.expert}
        return axes[along]

    def copies_of(self, along: Along | None) -> Axis:
        """The workers over which the gradients of such a parameter are summed."""
        return self.expert_copies if along == "expert" else self.copies

    def writers_of(self, along: Along | None) -> Axis:
        """The workers that hold the same of such a parameter, and share the writing of it."""
        return self.in_stage if along is None else self.copies_of(along)

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

    def once(self, value: float) -> float:
        """What this worker adds to a sum over all, of a value that all workers of `tensor` have alike.

        Of a pipeline, the last stage adds it, which computes the loss.
        """
        return value if self.tensor.rank == 0 and self.pipeline.rank == self.pipeline.size - 1 else 0

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


@contextmanager
def arranged(group: Group, sharding: Sharding) -> Iterator[Group]:
    """The group with its workers in the places that `sharding` gives them. All of them call it together.

    Workers of a tensor axis follow each other, as they exchange most; then those of a context axis, then other rows,
    then the stages of a pipeline, which exchange least. Experts are spread over workers that follow each other. Raises
    InputError if there are no whole copies of the model.
    """
    tensor, context, expert, num_workers = sharding.tensor, sharding.context, sharding.expert, group.num_workers
    stages, together = sharding.pipeline, sharding.together
    if num_workers % together:
        what = f"{num_workers} workers cannot be {stages} stages × {context} parts of rows × {tensor} parts of matrices"
        raise InputError(what, fix=f"Start a multiple of {together} workers, as workers.num_workers says.")
    if num_workers % expert:
        what = f"Experts cannot be spread over {expert} of {num_workers} workers"
        raise InputError(what, fix=f"Start a multiple of {expert} workers, as workers.num_workers says.")
    ranks, in_stage = range(num_workers), num_workers // stages
    made: list[Any] = []

    def axis(size: int, step: int) -> Axis:
        """Of workers that are `step` ranks apart."""
        place = group.rank // step % size
        if size == 1:
            return ALONE
        sets = [ranks[first : first + size * step : step] for first in ranks if first // step % size == 0]
        made.append(_own_group(sets, group.rank))
        return Axis(place, size, made[-1])

    placed = replace(
        group,
        tensor=axis(tensor, 1),
        context=axis(context, tensor),
        expert=axis(expert, 1),
        pipeline=axis(stages, in_stage),
    )
    if tensor > 1 or stages > 1:
        begins = [begin + first for begin in ranks[::in_stage] for first in range(tensor)]
        sets = [ranks[first : first - first % in_stage + in_stage : tensor] for first in begins]
        made.append(_own_group(sets, group.rank))
        placed = replace(placed, copies_group=made[-1])
    if expert > 1:
        made.append(_own_group([ranks[first::expert] for first in range(expert)], group.rank))
        same = Axis(group.rank // expert, num_workers // expert, made[-1])
        placed = replace(placed, expert_copies=same)
    yield placed
    for of_this in made:
        dist.destroy_process_group(of_this)


def _own_group(sets: Sequence[Sequence[int]], rank: int) -> Any:
    """torch's group of the set with this rank; every process makes all of them."""
    groups = [dist.new_group(list(one)) for one in sets]
    return next(made for made, one in zip(groups, sets, strict=True) if rank in one)
