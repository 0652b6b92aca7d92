"""The run's log, as JSON lines. Each step and each measurement is in it once, even after a resumed run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Tell = Callable[[dict[str, Any]], None]
"""Receives the first worker's events as they happen, for example for a progress bar or a hyperparameter search."""


class RunLog:
    """Appends events to a file and passes them on. Only the first worker's log writes."""

    def __init__(self, file: Path, from_step: int, tell: Tell, is_first: bool) -> None:
        """First removes events that will happen again: those of steps after `from_step`, and the end of the run."""
        self._tell, self._is_first = tell, is_first
        if is_first:
            kept = [e for e in read_log(file) if e["step"] <= from_step and e["event"] != "finished"]
            self._measured = {_measurement(event) for event in kept if event["event"] == "heldout"}
            file.write_text("".join(f"{json.dumps(event)}\n" for event in kept))
            self._file = file.open("a", buffering=1)

    def add(self, event: str, step: int, **values: Any) -> None:
        if self._is_first:
            record = {"event": event, "step": step, **values}
            # A run that was killed after its last measurement repeats it on resuming; it is logged only once.
            if event != "heldout" or _measurement(record) not in self._measured:
                self._file.write(json.dumps(record) + "\n")
            self._tell(record)

    def say(self, text: str) -> None:
        """Sends a line to show to the user, which is not written to the log."""
        if self._is_first:
            self._tell({"event": "said", "text": text})

    def close(self) -> None:
        if self._is_first:
            self._file.close()


def _measurement(event: dict[str, Any]) -> tuple[int, str]:
    return event["step"], event["name"]


def read_log(file: Path) -> Iterator[dict[str, Any]]:
    """The events of a log. An incomplete last line, as a killed run leaves, is ignored."""
    if not file.exists():
        return
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
