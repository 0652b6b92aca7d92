"""Rows rendered by Ray tasks, on all cores of a cluster: blocks and results travel through its object store."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray

from rayloom.text.bulk_tokenizer import use_one_thread
from rayloom.text.row_workers import Item, Result, in_order


class RayTasks:
    """Workers of rows on a cluster; see `RowWorkers`."""

    def __init__(self, num_cores: int) -> None:
        self.num_cores = num_cores
        self._work: object = None
        self._shared: ray.ObjectRef | None = None

    def results(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """As the protocol says."""
        if work is not self._work:
            self._work, self._shared = work, ray.put(work)
        task = ray.remote(num_cpus=1)(_do)
        shared = [self._shared]  # in a list, so that a task fetches it once for its process, not each time

        def submit(item: Item) -> Any:
            return task.remote(shared, item).future()

        yield from in_order(submit, items, self.num_cores)

    def close(self) -> None:
        self._work = self._shared = None


def _do(shared: Sequence[ray.ObjectRef], item: Any) -> Any:
    return _work_of(shared[0])(item)


@functools.lru_cache(maxsize=1)
def _work_of(shared: ray.ObjectRef) -> Callable[[Any], Any]:
    use_one_thread()
    work: Callable[[Any], Any] = ray.get(shared)
    return work
