"""Exchanges between tasks as Ray objects, which a lost node only costs the time to compute them again.

Each task returns its counts, and one object for each range of destinations. Where senders times destinations are few,
a range is one destination, and a receiver's arguments are one object from each sender. Otherwise the ranges are cut
further, level by level: a cutting task joins packets of up to 512 MB and cuts them into up to 256 ranges. So the number
of objects, and with it the driver's memory, grows with the bytes that are sent, not with senders times destinations.
Müller et al. 2020 (Lambada, section 4.4) cut in levels likewise, there through an object store.

A lost object is computed again from its task's arguments, back to the work files in the store. The driver holds a
reference and a size for each. Objects below 100 kB Ray keeps in the driver's process: at most 4096 of them a stage.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from rayloom import errors
from rayloom.data.exchange.mail import Mail, Packet, joined, num_bytes, part_of, ranges
from rayloom.data.passes import MailedWork, TaskCounts
from rayloom.errors import RayloomError

MAX_PARTS = 4096
"""Objects that the tasks of a stage may return whatever their sizes."""
MAX_JOINED_BYTES = 512 << 20
MAX_JOINED_PACKETS = 1024
MAX_RANGES = 256
MIN_PART_BYTES = 1 << 20
MAX_RETRIES = 20
"""How often a task is run again after its worker or node was lost, or an object that it returned."""


@dataclass(frozen=True)
class Sized:
    """A packet in Ray's object store."""

    packet: ray.ObjectRef
    num_bytes: int


@dataclass
class RayExchange:
    """The packets of an exchange by range of destinations; after `cut` each range is one destination."""

    num_destinations: int
    by_range: dict[tuple[int, int], list[Sized]] = field(default_factory=dict)

    def to(self, destination: int) -> list[ray.ObjectRef]:
        """The packets for one destination, in the order of their senders."""
        return [sized.packet for sized in self.by_range[destination, destination + 1] if sized.num_bytes]


def first_ranges(num_destinations: int, num_senders: int) -> list[tuple[int, int]]:
    """The ranges into which a sender cuts what it sends."""
    return ranges(0, num_destinations, max(1, min(num_destinations, MAX_PARTS // max(1, num_senders))))


def cut(exchange: RayExchange, window: int) -> None:
    """Cuts the packets of an exchange until each is for one destination."""
    while wide := [where for where in exchange.by_range if where[1] - where[0] > 1]:
        tasks: list[tuple[tuple[int, int], list[tuple[int, int]], list[Sized]]] = []
        for low, high in wide:
            packets = exchange.by_range.pop((low, high))
            batches = list(_batches(packets))
            total = sum(packet.num_bytes for packet in packets)
            num_ranges = _num_ranges(high - low, len(batches), total)
            cuts = ranges(low, high, num_ranges)
            exchange.by_range |= {where: [] for where in cuts}
            tasks += [((low, high), cuts, batch) for batch in batches]
        submitted = (
            _cut.options(num_returns=1 + len(cuts)).remote(cuts, *(sized.packet for sized in batch))
            for _, cuts, batch in tasks
        )
        results: dict[int, list[Sized]] = {}
        for number, (sizes, *parts) in finished(submitted, window):
            results[number] = [Sized(*pair) for pair in zip(parts, ray.get(sizes), strict=True)]
        for number, (_, cuts, _) in enumerate(tasks):
            for where, sized in zip(cuts, results[number], strict=True):
                exchange.by_range[where].append(sized)


def _batches(packets: Sequence[Sized]) -> Iterator[list[Sized]]:
    batch: list[Sized] = []
    for packet in packets:
        if not packet.num_bytes:
            continue
        full = sum(one.num_bytes for one in batch) + packet.num_bytes > MAX_JOINED_BYTES
        if batch and (full or len(batch) == MAX_JOINED_PACKETS):
            yield batch
            batch = []
        batch.append(packet)
    if batch:
        yield batch


def _num_ranges(num_destinations: int, num_batches: int, total_bytes: int) -> int:
    """How many ranges: as many as give parts of 1 MB, or as few objects as `MAX_PARTS`; at least two."""
    if not num_batches:
        return num_destinations
    wanted = max(total_bytes // (num_batches * MIN_PART_BYTES), MAX_PARTS // num_batches)
    return int(max(2, min(num_destinations, MAX_RANGES, wanted)))


def finished(submitted: Iterator[Any], window: int) -> Iterator[tuple[int, list[ray.ObjectRef]]]:
    """The number and objects of each task when it is done, in any order; at most `window` are submitted at a time."""
    waiting: dict[ray.ObjectRef, tuple[int, list[ray.ObjectRef]]] = {}
    tasks = enumerate(submitted)
    while True:
        while len(waiting) < window and (task := next(tasks, None)) is not None:
            number, refs = task
            refs = refs if isinstance(refs, list) else [refs]
            waiting[refs[0]] = number, refs
        if not waiting:
            return
        done, _ = ray.wait(list(waiting), num_returns=1)
        for ref in done:
            yield waiting.pop(ref)


def send_and_receive(
    items: Sequence[int],
    work: ray.ObjectRef,
    reads: Sequence[RayExchange],
    writes: Mapping[str, int],
    window: int,
    on_record: Callable[[int, TaskCounts], None],
) -> dict[str, RayExchange]:
    """Runs a stage; see `Passes.exchange`. `on_record` gets each item's place and counts when it is done.

    `work`: the function as an object, which must live as long as anything that was computed with it. `window`: most
    tasks that are submitted and not finished.
    """
    for exchange in reads:
        cut(exchange, window)
    cuts = {name: first_ranges(number, len(items)) for name, number in writes.items()}
    submitted = (
        _run.options(num_returns=1 + sum(map(len, cuts.values()))).remote(
            [work], item, cuts, *(packet for exchange in reads for packet in exchange.to(item))
        )
        for item in items
    )
    found: dict[int, list[list[Sized]]] = {}
    for number, (answer, *packets) in finished(submitted, window):
        record, sizes = _record(ray.get(answer))
        on_record(number, record)
        pairs = [Sized(packet, size) for packet, size in zip(packets, sizes, strict=True)]
        begins = [sum(map(len, list(cuts.values())[:place])) for place in range(len(cuts) + 1)]
        found[number] = [pairs[begin:end] for begin, end in itertools.pairwise(begins)]
    made = {name: RayExchange(number) for name, number in writes.items()}
    for place, (name, where) in enumerate(cuts.items()):
        for index, one in enumerate(where):
            made[name].by_range[one] = [found[number][place][index] for number in range(len(items))]
    return made


# -- in the tasks; an error for a person comes back as a value, for Ray would bury it in one of its own ----------------


@ray.remote(num_cpus=1, max_retries=MAX_RETRIES)  # type: ignore[untyped-decorator]
def _run(work: list[ray.ObjectRef], item: int, cuts: Mapping[str, list[tuple[int, int]]], *packets: Packet) -> Any:
    mail = Mail(packets)
    function = _loaded(work[0])
    try:
        record, error = json.dumps(function(item, mail)), ""
    except RayloomError as raised:
        record, error, mail = "", pack_error(raised), Mail()
    parts = []
    for name, wanted in cuts.items():
        whole = mail.sent(name)
        parts += [part_of(whole, *where) for where in wanted]
    answer = (record, error, [num_bytes(part) for part in parts])
    return (answer, *parts) if parts else answer


@functools.lru_cache(maxsize=1)
def _loaded(work: ray.ObjectRef) -> MailedWork:
    """The function of a stage, loaded once in each process: it holds the list of all files and chunks."""
    function: MailedWork = ray.get(work)
    return function


@ray.remote(num_cpus=1, max_retries=MAX_RETRIES)  # type: ignore[untyped-decorator]
def _cut(cuts: list[tuple[int, int]], *packets: Packet) -> Any:
    whole = joined(packets)
    parts = [part_of(whole, *where) for where in cuts]
    return [num_bytes(part) for part in parts], *parts


def pack_error(error: RayloomError) -> str:
    return json.dumps([type(error).__name__, error.what, error.where, error.fix])


def raise_packed(error: str) -> None:
    """Raises the error that `pack_error` packed, if there is one."""
    if error:
        name, what, where, fix = json.loads(error)
        raise getattr(errors, name)(what, where=where, fix=fix)


def _record(answer: tuple[str, str, list[int]]) -> tuple[TaskCounts, list[int]]:
    record, error, sizes = answer
    raise_packed(error)
    return json.loads(record), sizes
