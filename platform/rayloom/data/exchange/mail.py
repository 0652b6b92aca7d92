"""Records that tasks send each other: a shuffle by destination, in packets of sorted arrays.

A task sends arrays of records, each with its destination (a bucket, or a group of chunks). What it sent becomes one
packet, sorted by destination. A packet can be cut by ranges of destinations, and packets for the same range can be
joined, so that how many there are between senders and receivers is free (`rayloom.data.exchange.levels`). A receiver
gets its records sender after sender in the senders' order, however they were cut and joined.

Shapes: R records, D destinations that occur.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sorted:
    """Records of one kind, sorted by destination."""

    records: NDArray[Any]
    """(R,)"""
    homes: NDArray[np.int64]
    """(D,) the destinations, in order."""
    ends: NDArray[np.int64]
    """(D,) where each destination's records end."""

    @classmethod
    def of(cls, records: NDArray[Any], homes: NDArray[np.int64]) -> Sorted:
        """Records in any order, with the destination of each. Those of one destination keep their order."""
        found, counts = np.unique(homes, return_counts=True)
        if len(found) > 1:
            records = records[np.argsort(homes, kind="stable")]
        return cls(records, found, np.cumsum(counts))

    def part(self, low: int, high: int) -> Sorted:
        """The records for the destinations from `low` to `high` - 1."""
        first, last = np.searchsorted(self.homes, (low, high))
        begin = int(self.ends[first - 1]) if first else 0
        end = int(self.ends[last - 1]) if last else 0
        return Sorted(self.records[begin:end], self.homes[first:last], self.ends[first:last] - begin)

    @classmethod
    def joined(cls, parts: Sequence[Sorted]) -> Sorted:
        """The records of all parts; those of one destination part after part."""
        if len(parts) == 1:
            return parts[0]
        homes = np.concatenate([part.homes for part in parts])
        owners = np.repeat(np.arange(len(parts)), [len(part.homes) for part in parts])
        ends = np.concatenate([part.ends for part in parts])
        begins = np.concatenate([np.append(0, part.ends)[:-1] for part in parts])
        order = np.argsort(homes, kind="stable")
        slices = zip(owners[order].tolist(), begins[order].tolist(), ends[order].tolist(), strict=True)
        records = np.concatenate([parts[owner].records[begin:end] for owner, begin, end in slices])
        found, firsts = np.unique(homes[order], return_index=True)
        counts = np.add.reduceat((ends - begins)[order], firsts)
        return cls(records, found, np.cumsum(counts))


Packet = Mapping[str, Sorted]
"""What a task sent in one exchange, by kind of record."""


def part_of(packet: Packet, low: int, high: int) -> Packet:
    """What a packet has for the destinations from `low` to `high` - 1."""
    parts = {kind: records.part(low, high) for kind, records in packet.items()}
    return {kind: part for kind, part in parts.items() if len(part.records)}


def joined(packets: Sequence[Packet]) -> Packet:
    """One packet with the records of all."""
    kinds = sorted({kind for packet in packets for kind in packet})
    return {kind: Sorted.joined([packet[kind] for packet in packets if kind in packet]) for kind in kinds}


def num_bytes(packet: Packet) -> int:
    return sum(part.records.nbytes for part in packet.values())


def ranges(low: int, high: int, num_parts: int) -> list[tuple[int, int]]:
    """The destinations from `low` to `high` - 1 in so many ranges of about equal size."""
    bounds = [low + (high - low) * number // num_parts for number in range(num_parts + 1)]
    return list(itertools.pairwise(bounds))


@dataclass
class Mail:
    """What a task receives and sends."""

    packets: Sequence[Packet] = ()
    """For this task only, in the order of their senders."""
    _sent: dict[str, dict[str, list[Sorted]]] = field(default_factory=dict)

    def take(self, kind: str, dtype: Any) -> NDArray[Any]:
        """All records of a kind that were sent to this task."""
        found = [packet[kind].records for packet in self.packets if kind in packet]
        return np.concatenate(found) if found else np.zeros(0, dtype)

    def send(self, exchange: str, kind: str, records: NDArray[Any], homes: NDArray[Any] | int) -> None:
        """Sends records through an exchange. `homes`: the destination of each, or that of all."""
        if len(records):
            kinds = self._sent.setdefault(exchange, {})
            if isinstance(homes, int):
                made = Sorted(records, np.asarray([homes]), np.asarray([len(records)]))
            else:
                made = Sorted.of(records, homes.astype(np.int64))
            kinds.setdefault(kind, []).append(made)

    def sent(self, exchange: str) -> Packet:
        """All that was sent through an exchange."""
        return {kind: Sorted.joined(parts) for kind, parts in self._sent.get(exchange, {}).items()}
