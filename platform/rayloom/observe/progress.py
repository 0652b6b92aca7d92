"""Messages and progress of a running job: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import functools
import logging
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

SECONDS_BETWEEN_LINES = 10.0


@functools.cache
def console() -> Console:
    """Rich's console on standard error, loaded when more than a plain line is shown."""
    from rich.console import Console

    # A terminal has its own width. In a file or pipe the console is wide, so that a table's row stays on one line.
    return Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else 240)


class _ConsoleHandler(logging.Handler):
    """Writes each record to the present standard error, or to the console once there is one: it may show a bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if console.cache_info().currsize:
            console().print(record.getMessage(), markup=False, emoji=False)
        else:
            sys.stderr.write(f"{record.getMessage()}\n")


messages = logging.getLogger("rayloom.messages")
"""Logger of everything that `say` prints. Its handlers receive every line, with the attribute `rank` of the training
worker that said it (None for others)."""
messages.setLevel(logging.INFO)
messages.propagate = False
messages.addHandler(_ConsoleHandler())


def say(text: str, *, rank: int | None = None) -> None:
    """Prints one line for the user on standard error, so that standard output can be piped."""
    messages.info("%s", text, extra={"rank": rank})


class Bar(ABC):
    """Progress of one task. `total` may be set later; `note` is shown after the count: `loss 3.21`."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.note = ""

    def continue_from(self, done: int) -> None:
        """Counts what an earlier run did, which says nothing about the rate of this one."""
        self.done = done
        self._show()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        self._show()

    @abstractmethod
    def _show(self) -> None: ...


class _TerminalBar(Bar):
    def __init__(self, label: str, total: int | None, unit: str, progress: Progress) -> None:
        super().__init__(label, total, unit)
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="", unit=unit)

    def _show(self) -> None:
        self._progress.update(self._task, completed=self.done, total=self.total, note=self.note)


LEAST_FOR_ESTIMATE = 10
"""The time left is said from so many on: two replicas that start say nothing about a third."""
RATE_LINES = 6
"""The rate is that of the time since so many lines ago: what came before may have been slower, or only a start."""


class _LineBar(Bar):
    def __init__(self, label: str, total: int | None, unit: str) -> None:
        super().__init__(label, total, unit)
        self._said = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque(maxlen=RATE_LINES)
        """When lines were said, and what was done by then; the first is that of the first progress."""

    def continue_from(self, done: int) -> None:
        self._marks.clear()
        super().continue_from(done)

    def _show(self) -> None:
        now = time.monotonic()
        if self.done and not self._marks:
            self._marks.append((now, self.done))
        if now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            of_total = f"/{self.total}" if self.total else ""
            say(f"{self.label}: {self.done}{of_total} {self.unit}{self._rate(now)} {self.note}".rstrip())
            if self._marks:
                self._marks.append((now, self.done))

    def _rate(self, now: float) -> str:
        """`, 1.25/s, 40 s left`; empty if there was no progress since the first."""
        since, before = self._marks[0] if self._marks else (now, self.done)
        counted = self.done - before
        if not counted:
            return ""
        rate = counted / (now - since)
        is_known = self.total is not None and counted >= LEAST_FOR_ESTIMATE and self.done < self.total
        return f", {rate:.3g}/s" + (
            f", {(self.total - self.done) / rate:.0f} s left" if self.total and is_known else ""
        )


@contextmanager
def progress(label: str, total: int | None = None, unit: str = "rows") -> Iterator[Bar]:
    """A bar for work that takes over two seconds: `with progress("packing", n) as bar: bar.advance()`."""
    if not console().is_terminal:
        yield _LineBar(label, total, unit)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console(), transient=True) as display:
        yield _TerminalBar(label, total, unit, display)


class EstimatedTotal:
    """Shows how many rows there will be, by the bytes that the rows so far took."""

    def __init__(self, bar: Bar, total_bytes: int) -> None:
        self._bar, self._total_bytes, self._bytes = bar, total_bytes, 0

    def advance(self, num_rows: int, num_bytes: int) -> None:
        self._bytes += num_bytes
        if self._bytes and self._total_bytes:
            self._bar.total = max(1, round((self._bar.done + num_rows) * self._total_bytes / self._bytes))
        self._bar.advance(num_rows)
