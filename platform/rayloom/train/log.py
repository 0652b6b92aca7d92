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
        """Lines of steps that will be done again (after `from_step`) are taken out first."""
        self._tell, self._is_first = tell, is_first
        if is_first:
            kept = [json.dumps(event) for event in read_log(file) if event["step"] <= from_step]
            file.write_text("".join(f"{line}\n" for line in kept))
            self._file = file.open("a", buffering=1)

    def add(self, event: str, step: int, **values: Any) -> None:
        if self._is_first:
            record = {"event": event, "step": step, **values}
            self._file.write(json.dumps(record) + "\n")
            self._tell(record)

    def say(self, text: str) -> None:
        """One line for people, which is not part of the log."""
        if self._is_first:
            self._tell({"event": "said", "text": text})

    def close(self) -> None:
        if self._is_first:
            self._file.close()


def read_log(file: Path) -> Iterator[dict[str, Any]]:
    """The events of a log; a last line that a kill cut off is left out."""
    if not file.exists():
        return
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
