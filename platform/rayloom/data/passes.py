"""How the passes of a cleaning job are run: on Ray in a job, in a loop in a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rayloom.data.filter_pass import JudgingPass

TaskCounts = dict[str, Any]
"""What a task returns to the driver: counts, as plain JSON values."""


Work = Callable[[int], TaskCounts]


@dataclass(frozen=True)
class WorkerPool:
    """Worker processes that keep a model loaded, and the resources of each."""

    count: int
    cpus: int
    gpus: int


class Passes(Protocol):
    """Runs passes and keeps their results."""

    def judge(self, given: JudgingPass) -> list[TaskCounts]:
        """Reads all files and judges their rows."""

    def once(self, name: str, work: Callable[[], list[TaskCounts]]) -> list[TaskCounts]:
        """The result of the pass `name`: the stored one of an earlier run if there is one, otherwise that of `work`."""

    def each_by(
        self, label: str, items: Sequence[int], make: Callable[[], Work], workers: WorkerPool
    ) -> list[TaskCounts]:
        """Like `each`, for a function that is expensive to make (it loads a model): each worker makes it once."""

    def each(self, label: str, items: Sequence[int], work: Callable[[int], TaskCounts]) -> list[TaskCounts]:
        """What `work` returns for every item, in the order of the items."""
