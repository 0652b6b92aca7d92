"""What runs the passes of a job: once each, over many numbers, somewhere. Ray does it in a job, a loop in a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rayloom.data.filter_pass import JudgingPass

Record = dict[str, Any]
"""What a task tells the driver: counts, as plain JSON values."""


Work = Callable[[int], Record]


@dataclass(frozen=True)
class Workers:
    """Processes that keep something loaded, and what each of them needs."""

    count: int
    cpus: int
    gpus: int


class Passes(Protocol):
    """Runs passes and remembers what they found."""

    def judge(self, given: JudgingPass) -> list[Record]:
        """Reads all files and judges their rows."""

    def once(self, name: str, work: Callable[[], list[Record]]) -> list[Record]:
        """What the pass found: from an earlier run where that finished it, else from doing it."""

    def each_by(self, label: str, items: Sequence[int], make: Callable[[], Work], workers: Workers) -> list[Record]:
        """The same with something that is dear to make, made once a worker."""

    def each(self, label: str, items: Sequence[int], work: Callable[[int], Record]) -> list[Record]:
        """What `work` returns for every item, in the order of the items."""
