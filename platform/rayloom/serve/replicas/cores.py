"""Exclusive CPU cores for engines: each replica on a machine reserves its own, and they are free again when it ends.

A core is reserved by a lock on a file named after it. The kernel releases the lock when the process ends, so no cleanup
is needed. Replicas of different services on one machine get different cores too.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CPU_LIMIT_FILE = Path("/sys/fs/cgroup/cpu.max")
SIBLINGS_FILE = "/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"


@dataclass(frozen=True)
class CoreLease:
    """Cores reserved by this process until it ends or calls `release`."""

    cores: tuple[int, ...]
    locks: tuple[IO[str], ...]

    def release(self) -> None:
        for lock in self.locks:
            lock.close()

    @contextmanager
    def inherited(self) -> Iterator[None]:
        """Inside, binds this thread to these cores, and so the threads and processes that it starts."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def lease_cores(num_cores: int, candidates: Iterable[int], directory: Path | None = None) -> CoreLease | None:
    """The first `num_cores` of the candidates that no other replica holds, or None if fewer are free."""
    folder = directory or Path(tempfile.gettempdir()) / f"rayloom-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    taken: dict[int, IO[str]] = {}
    for core in candidates:
        if len(taken) == num_cores:
            break
        lock = (folder / f"core-{core}").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            taken[core] = lock
    held = CoreLease(tuple(taken), tuple(taken.values()))
    if len(taken) == num_cores:
        return held
    held.release()
    return None


def bindable_cores() -> tuple[int, ...]:
    """The cores to which this process can bind, best first; empty in a container with a CPU quota.

    Such a container sees all cores of the machine, and so do the others: all would choose the same ones.
    """
    allowed = sorted(os.sched_getaffinity(0))
    limit = cpu_limit(CPU_LIMIT_FILE.read_text()) if CPU_LIMIT_FILE.exists() else None
    return () if limit is not None and limit < len(allowed) else physical_first(allowed, _siblings)


def cpu_limit(text: str) -> float | None:
    """The number of CPUs that a control group's `cpu.max` (`QUOTA PERIOD` or `max PERIOD`) allows; None: unlimited."""
    quota, period = text.split()
    return None if quota == "max" else int(quota) / int(period)


def physical_first(cores: Iterable[int], siblings: Callable[[int], str]) -> tuple[int, ...]:
    """The first hardware thread of each physical core, then the second ones, which share its arithmetic units."""
    return tuple(sorted(cores, key=lambda core: (_thread_index(core, siblings(core)), core)))


def _thread_index(core: int, siblings: str) -> int:
    """0 for the first hardware thread of its physical core. `siblings` is such as `3,11` or `6-7`."""
    threads: list[int] = []
    for part in siblings.split(","):
        first, _, last = part.partition("-")
        threads += range(int(first), int(last or first) + 1)
    return threads.index(core)


def _siblings(core: int) -> str:
    file = Path(SIBLINGS_FILE.format(core=core))
    return file.read_text().strip() if file.exists() else str(core)
