"""Exchanges between tasks as Ray objects, which a lost node only costs the time to compute them again.

Each task returns its counts, and one object for each range of destinations (`exchange/levels.py`). A lost object is
computed again from its task's arguments, back to the work files in the store. The driver holds a reference and a size
for each. Objects below 100 kB Ray keeps in the driver's process: at most 4096 of them a stage.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray

from rayloom import errors
from rayloom.data.exchange.levels import CuttingTask, Parcels, Range, Sized, cut, first_ranges
from rayloom.data.exchange.mail import Mail, Packet, joined, num_bytes, part_of
from rayloom.data.passes import MailedWork, TaskCounts
from rayloom.errors import RayloomError

MAX_RETRIES = 20
"""How often a task is run again after its worker or node was lost, or an object that it returned."""


def _run_cutting_tasks(window: int, tasks: Sequence[CuttingTask]) -> list[list[Sized]]:
    submitted = (
        _cut.options(num_returns=1 + len(task.cuts)).remote(task.cuts, *(sized.packet for sized in task.packets))
        for task in tasks
    )
    made: dict[int, list[Sized]] = {}
    for number, (sizes, *parts) in finished(submitted, window):
        made[number] = [Sized(*pair) for pair in zip(parts, ray.get(sizes), strict=True)]
    return [made[number] for number in range(len(tasks))]


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
    reads: Sequence[Parcels],
    writes: Mapping[str, int],
    window: int,
    on_record: Callable[[int, TaskCounts], None],
) -> dict[str, Parcels]:
    """Runs a stage; see `Passes.exchange`. `on_record` gets each item's place and counts when it is done.

    `work`: the function as an object, which must live as long as anything that was computed with it. `window`: most
    tasks that are submitted and not finished.
    """
    for exchange in reads:
        cut(exchange, functools.partial(_run_cutting_tasks, window))
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
    made = {name: Parcels() for name in writes}
    for place, (name, where) in enumerate(cuts.items()):
        for index, one in enumerate(where):
            made[name].by_range[one] = [found[number][place][index] for number in range(len(items))]
    return made


# -- in the tasks; an error for a person comes back as a value, for Ray would bury it in one of its own ----------------


@ray.remote(num_cpus=1, max_retries=MAX_RETRIES)  # type: ignore[untyped-decorator]
def _run(work: list[ray.ObjectRef], item: int, cuts: Mapping[str, list[Range]], *packets: Packet) -> Any:
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
def _cut(cuts: list[Range], *packets: Packet) -> Any:
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
