"""How records get from senders to destinations in a bounded number of packets, whoever holds and joins these.

A sender's packet is cut into ranges of destinations: single destinations where senders times destinations are few.
Otherwise ranges are cut further, level by level: packets of up to 512 MB are joined and cut into up to 256 ranges. So
the number of packets grows with the bytes that are sent, not with senders times destinations. Müller et al. 2020
(Lambada, section 4.4) cut in levels likewise, through an object store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayloom.data.exchange.mail import ranges

MAX_PARTS = 4096
"""Packets that the tasks of a stage may send whatever their sizes."""
MAX_JOINED_BYTES = 512 << 20
MAX_JOINED_PACKETS = 1024
MAX_RANGES = 256
MIN_PART_BYTES = 1 << 20

Range = tuple[int, int]
"""The destinations from the first number to one below the second."""


@dataclass(frozen=True)
class Sized:
    """A packet, or a reference to it, and its size."""

    packet: Any
    num_bytes: int


@dataclass
class Parcels:
    """The packets of an exchange by range of destinations, in the order of their senders."""

    by_range: dict[Range, list[Sized]] = field(default_factory=dict)

    def to(self, destination: int) -> list[Any]:
        """The packets for one destination, when all are cut."""
        return [sized.packet for sized in self.by_range[destination, destination + 1] if sized.num_bytes]


@dataclass(frozen=True)
class CuttingTask:
    """Packets to join, and the ranges into which to cut what is joined."""

    packets: list[Sized]
    cuts: list[Range]


def first_ranges(num_destinations: int, num_senders: int) -> list[Range]:
    """The ranges into which a sender cuts what it sends."""
    return ranges(0, num_destinations, max(1, min(num_destinations, MAX_PARTS // max(1, num_senders))))


def cut(parcels: Parcels, run: Callable[[Sequence[CuttingTask]], list[list[Sized]]]) -> None:
    """Cuts packets until each is for one destination. `run`: the packets of each task, one for each of its ranges."""
    while wide := [where for where in parcels.by_range if where[1] - where[0] > 1]:
        tasks: list[CuttingTask] = []
        for low, high in wide:
            packets = parcels.by_range.pop((low, high))
            batches = list(_batches(packets))
            total = sum(packet.num_bytes for packet in packets)
            cuts = ranges(low, high, _num_ranges(high - low, len(batches), total))
            parcels.by_range |= {where: [] for where in cuts}
            tasks += [CuttingTask(batch, cuts) for batch in batches]
        for task, made in zip(tasks, run(tasks), strict=True):
            for where, sized in zip(task.cuts, made, strict=True):
                parcels.by_range[where].append(sized)


def _batches(packets: Sequence[Sized]) -> Iterator[list[Sized]]:
    batch: list[Sized] = []
    num_bytes = 0
    for packet in packets:
        if not packet.num_bytes:
            continue
        full = num_bytes + packet.num_bytes > MAX_JOINED_BYTES
        if batch and (full or len(batch) == MAX_JOINED_PACKETS):
            yield batch
            batch, num_bytes = [], 0
        batch.append(packet)
        num_bytes += packet.num_bytes
    if batch:
        yield batch


def _num_ranges(num_destinations: int, num_batches: int, total_bytes: int) -> int:
    """How many ranges: as many as give parts of 1 MB, or as few objects as `MAX_PARTS`; at least two."""
    if not num_batches:
        return num_destinations
    wanted = max(total_bytes // (num_batches * MIN_PART_BYTES), MAX_PARTS // num_batches)
    return int(max(2, min(num_destinations, MAX_RANGES, wanted)))
