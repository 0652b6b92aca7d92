"""The points of a training's curves, from its log: by metric, thinned to what a screen can show.

Memory does not grow with the log: a line that has twice too many points keeps the means of each two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_POINTS = 1_000
MOST_BYTES_AT_ONCE = 16 << 20
"""A page waits for so much of a log at most; the next one reads on."""
STEP_METRICS = ("loss", "learning_rate", "gradient_norm", "reward", "accuracy", "kl")
NOT_CURVES = ("event", "step", "name", "labels", "tokens", "seconds", "data_wait_seconds")


@dataclass
class Series:
    """One line: x and y of its points, each the mean of `every` values."""

    name: str
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    every: int = 1
    _open: list[tuple[float, float]] = field(default_factory=list)
    """The values of the point that is not whole yet."""

    def add(self, x: float, y: float) -> None:
        self._open.append((x, y))
        if len(self._open) < self.every:
            return
        self.x.append(self._open[0][0])
        self.y.append(_mean(self._open))
        self._open.clear()
        if len(self.x) >= 2 * MAX_POINTS:
            self.y = [(one + two) / 2 for one, two in zip(self.y[::2], self.y[1::2], strict=True)]
            self.x, self.every = self.x[::2], 2 * self.every

    def plain(self) -> dict[str, Any]:
        """JSON values for the browser."""
        is_open = bool(self._open)
        last = ([self._open[0][0]], [_mean(self._open)]) if is_open else ([], [])
        return {"name": self.name, "x": [*self.x, *last[0]], "y": [*self.y, *last[1]]}


Charts = dict[str, dict[str, Series]]
"""Series by name of the line, by title of the chart."""


def add_event(charts: Charts, event: Mapping[str, Any]) -> None:
    """Adds everything in an event of a training's log that is a number."""
    for chart, name, value in _values(event):
        charts.setdefault(chart, {}).setdefault(name, Series(name)).add(event["step"], value)


def _values(event: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Chart, line and value."""
    if event.get("event") == "step":
        for name in STEP_METRICS:
            if _is_number(event.get(name)):
                yield name, "training", event[name]
        if _is_number(event.get("tokens")) and _is_number(event.get("seconds")) and event["seconds"]:
            yield "tokens per second", "training", event["tokens"] / event["seconds"]
    elif event.get("event") == "heldout":
        for name, value in event.items():
            if name not in NOT_CURVES and _is_number(value):
                yield name, str(event.get("name", "heldout")), value


def plain(charts_by_run: Mapping[str, Charts]) -> list[dict[str, Any]]:
    """JSON values for the browser: several runs over each other, the loss first."""
    titles = dict.fromkeys(title for charts in charts_by_run.values() for title in charts)
    is_one = len(charts_by_run) == 1
    return [
        {
            "title": title,
            "series": [
                series.plain() | {"name": series.name if is_one else f"{run} {series.name}".strip()}
                for run, charts in charts_by_run.items()
                for series in charts.get(title, {}).values()
            ],
        }
        for title in sorted(titles, key=lambda title: title != "loss")
    ]


@dataclass
class GrowingLog:
    """A log that is read on from where it was read before; one that became shorter is read anew."""

    path: Path
    charts: Charts = field(default_factory=dict)
    read_bytes: int = 0
    is_whole: bool = False
    """Whether everything that is there was read."""
    last: dict[str, Any] = field(default_factory=dict)
    """The last event of a step."""
    _inode: int = 0

    def read(self) -> GrowingLog:
        """Reads what is new. Lines that are not whole yet, or no events, are left out."""
        try:
            facts = self.path.stat()
            if facts.st_size < self.read_bytes or facts.st_ino != self._inode:
                self.charts, self.last, self.read_bytes, self._inode = {}, {}, 0, facts.st_ino
            with self.path.open("rb") as file:
                file.seek(self.read_bytes)
                content = file.read(MOST_BYTES_AT_ONCE)
        except OSError:
            return self
        whole = content[: content.rfind(b"\n") + 1]
        self.read_bytes += len(whole)
        self.is_whole = self.read_bytes + len(content) - len(whole) >= facts.st_size
        for event in events_in(whole):
            add_event(self.charts, event)
            if event.get("event") == "step":
                self.last = event
        return self


def events_in(lines: bytes) -> Iterator[dict[str, Any]]:
    """The events in whole lines of a log."""
    for line in lines.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and _is_number(event.get("step")):
            yield event


def _mean(points: Iterable[tuple[float, float]]) -> float:
    values = [y for _, y in points]
    return sum(values) / len(values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
