"""The run's log: one JSON object a line, each step and each measurement once, also after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Tell = Callable[[dict[str, Any]], None]
"""Receives each event of the first worker as it happens: for a progress bar, a metrics service, a search."""


class RunLog:
    """Appends events to a file and passes them on. Only the first worker's log writes."""

    def __init__(self, file: Path, from_step: int, tell: Tell, is_first: bool) -> None:
        """Lines of what will be done again are taken out first: of steps after `from_step`, and of the run's end."""
        self._tell, self._is_first = tell, is_first
        if is_first:
            kept = [e for e in read_log(file) if e["step"] <= from_step and e["event"] != "finished"]
            self._measured = {_measurement(event) for event in kept if event["event"] == "heldout"}
            file.write_text("".join(f"{json.dumps(event)}\n" for event in kept))
            self._file = file.open("a", buffering=1)

    def add(self, event: str, step: int, **values: Any) -> None:
        if self._is_first:
            record = {"event": event, "step": step, **values}
            # A run killed between its last measurement and its end measures again: the same numbers, once in the log.
            if event != "heldout" or _measurement(record) not in self._measured:
                self._file.write(json.dumps(record) + "\n")
            self._tell(record)

    def say(self, text: str) -> None:
        """One line for people, which is not part of the log."""
        if self._is_first:
            self._tell({"event": "said", "text": text})

    def close(self) -> None:
        if self._is_first:
            self._file.close()


def _measurement(event: dict[str, Any]) -> tuple[int, str]:
    return event["step"], event["name"]


def read_log(file: Path) -> Iterator[dict[str, Any]]:
    """The events of a log; a last line that a kill cut off is left out."""
    if not file.exists():
        return
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
