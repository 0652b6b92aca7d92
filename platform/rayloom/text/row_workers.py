"""Where rows are made: in this process, or in as many others as it has cores; on a cluster, Ray does the same."""

from __future__ import annotations

import itertools
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Protocol, TypeVar

from rayloom.errors import ResourceError
from rayloom.text.bulk_tokenizer import use_one_thread

Item = TypeVar("Item")
Result = TypeVar("Result")
ITEMS_ALONE = 8
"""So few items are done in this process: others take a few seconds to start."""
ITEMS_WAITING = 2
"""Items given to each process at a time: one that it works on, and the next."""


class RowWorkers(Protocol):
    """Maps a function over items."""

    def results(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results in the order of the items, of which only a few are held at a time."""

    def close(self) -> None:
        """Ends what was started for it."""


class RowProcesses:
    """RowProcesses on the cores that this one may use; none are started for few items."""

    def __init__(self, num_processes: int | None = None) -> None:
        self.num_processes = num_processes or len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None
        self._work: object = None

    def results(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """As the protocol says; with the same `work` as before, the same processes go on."""
        rest = iter(items)
        first = list(itertools.islice(rest, ITEMS_ALONE + 1))
        if len(first) <= ITEMS_ALONE or self.num_processes == 1:
            yield from map(work, itertools.chain(first, rest))
            return
        pool = self._pool_for(work)
        try:
            submit: Callable[[Item], Future[Result]] = lambda item: pool.submit(_do, item)  # type: ignore[arg-type]  # noqa: E731
            yield from in_order(submit, itertools.chain(first, rest), self.num_processes)
        except BrokenProcessPool:
            fix = "Give this machine more memory, or let fewer processes run on it (taskset)."
            raise ResourceError("A process that rendered rows was killed, as happens without memory", fix=fix) from None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _pool_for(self, work: object) -> ProcessPoolExecutor:
        if self._pool is None or work is not self._work:
            self.close()
            # Not forked: threads of the engines may hold locks in this process.
            settings = (get_context("spawn"), _begin, (pickle.dumps(work),))
            self._pool, self._work = ProcessPoolExecutor(self.num_processes, *settings), work
        return self._pool


def in_order(submit: Callable[[Item], Future[Result]], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """The results of submitted items, of which no more wait than keep the workers busy."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(submit(item))
        if len(waiting) >= ITEMS_WAITING * num_workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_work: Callable[[object], object]


def _begin(packed: bytes) -> None:
    global _work
    use_one_thread()
    _work = pickle.loads(packed)  # noqa: S301 - written by the process that started this one


def _do(item: object) -> object:
    return _work(item)
