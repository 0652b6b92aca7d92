"""Workers that are threads of this process and exchange through lists, so that a test takes milliseconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from rayloom.score.parallel.axis import Axis

Result = TypeVar("Result")
PATIENCE_SECONDS = 60.0


class Exchange:
    """Where the workers of one axis meet."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.given: list[Any] = [None] * size

    def all_of(self, rank: int, value: Any) -> list[Any]:
        """What every worker gave, in the order of ranks."""
        self.given[rank] = value
        self.barrier.wait(PATIENCE_SECONDS)
        given = list(self.given)
        self.barrier.wait(PATIENCE_SECONDS)
        return given


@dataclass(frozen=True)
class ThreadAxis(Axis):
    """An axis of threads."""

    exchange: Exchange = field(default_factory=lambda: Exchange(1))

    def summed(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.exchange.all_of(self.rank, tensor.clone())).sum(dim=0))

    def largest(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.exchange.all_of(self.rank, tensor.clone())).amax(dim=0))

    def swapped(self, tensor: Tensor) -> Tensor:
        return torch.stack([given[self.rank] for given in self.exchange.all_of(self.rank, tensor.clone())])

    def routed(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        given = self.exchange.all_of(self.rank, torch.split(rows.clone(), list(sent)))
        assert [len(parts[self.rank]) for parts in given] == list(received)
        return torch.cat([parts[self.rank] for parts in given])

    def sent_by(self, rank: int, tensor: Tensor) -> Tensor:
        return tensor.copy_(self.exchange.all_of(self.rank, tensor.clone())[rank])


def on_threads(size: int, work: Callable[[Axis], Result]) -> list[Result]:
    """What `work` gives on each of the workers. An error of one is raised, and ends the others."""
    exchange = Exchange(size)

    def one(rank: int) -> Result:
        try:
            return work(ThreadAxis(rank, size, None, exchange))
        except BaseException:
            exchange.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as threads:
        works = [threads.submit(one, rank) for rank in range(size)]
    errors = [work.exception() for work in works if work.exception() is not None]
    for error in errors:
        if error is not None and not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [work.result() for work in works]
