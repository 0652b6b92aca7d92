"""How the passes of a cleaning job are run: on Ray in a job, in a loop in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rayloom.data.exchange.mail import Mail
from rayloom.data.filter_pass import JudgingPass

TaskCounts = dict[str, Any]
"""What a task returns to the driver: counts, as plain JSON values."""


Work = Callable[[int], TaskCounts]
MailedWork = Callable[[int, Mail], TaskCounts]


@dataclass(frozen=True)
class WorkerPool:
    """Worker processes that keep a model loaded, and the resources of each."""

    count: int
    cpus: int
    gpus: int


class Exchange(Protocol):
    """Records on their way from the tasks of one stage to those of another."""


class Passes(Protocol):
    """Runs passes and keeps their results."""

    def judge(self, given: JudgingPass) -> Iterator[TaskCounts]:
        """Reads all files and judges their rows; yields the counts of each chunk, in any order."""

    def once(self, name: str, work: Callable[[], TaskCounts]) -> TaskCounts:
        """The result of the pass `name`: the stored one of an earlier run if there is one, otherwise that of `work`."""

    def each_by(
        self, label: str, items: Sequence[int], make: Callable[[], Work], workers: WorkerPool
    ) -> list[TaskCounts]:
        """Like `each`, for a function that is expensive to make (it loads a model): each worker makes it once."""

    def each(self, label: str, items: Sequence[int], work: Work) -> list[TaskCounts]:
        """What `work` returns for every item, in the order of the items."""

    def exchange(
        self,
        label: str,
        items: Sequence[int],
        work: MailedWork,
        *,
        reads: Sequence[Exchange] = (),
        writes: Mapping[str, int] | None = None,
    ) -> tuple[list[TaskCounts], dict[str, Exchange]]:
        """Like `each`, for tasks that send each other records.

        `reads`: exchanges in which earlier tasks sent records; the task of item i gets those with destination i.
        `writes`: the exchanges in which these tasks send records, each with its number of destinations.
        """


def summed(records: Iterable[TaskCounts]) -> TaskCounts:
    """One record of several: numbers are added, lists joined, and dictionaries merged likewise."""
    total: TaskCounts = {}
    for record in records:
        _add(total, record)
    return total


def _add(total: TaskCounts, record: Mapping[str, Any]) -> None:
    for name, value in record.items():
        if isinstance(value, Mapping):
            _add(total.setdefault(name, {}), value)
        elif isinstance(value, list):
            total.setdefault(name, []).extend(value)
        else:
            total[name] = total.get(name, 0) + value
