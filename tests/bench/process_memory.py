"""Peak memory of a process and everything below it: proportional set size, in which shared pages count once.

Also the CPU seconds that this process and those it has waited for have used.
"""

from __future__ import annotations

import contextlib
import resource
import threading
from pathlib import Path
from types import TracebackType

import psutil

SECONDS_BETWEEN_LOOKS = 0.5


class PeakMemory:
    """Looks at the tree of processes while the block runs; `peak_bytes` is the most that was seen."""

    def __init__(self, root: int) -> None:
        self.root, self.peak_bytes = root, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            self.peak_bytes = max(self.peak_bytes, sum(map(_proportional_bytes, self._family())))

    def _family(self) -> list[int]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.root, *(child.pid for child in psutil.Process(self.root).children(recursive=True))]
        return []


def _proportional_bytes(process: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
