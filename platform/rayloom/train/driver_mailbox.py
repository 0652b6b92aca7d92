"""What the workers and the driver of a training job tell each other.

A file by itself, since an actor's process imports the file of its class: run.py would bring torch, pandas and Ray
Train, seconds and 0.3 GB of them, to hold a list of events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Mailbox:
    """An actor that passes events from the workers to the driver, and the request to stop to the workers."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._is_stopping = False

    def put(self, events: Sequence[dict[str, Any]]) -> bool:
        """Adds events; returns whether training is asked to stop."""
        self._events += events
        return self._is_stopping

    def take(self) -> list[dict[str, Any]]:
        events, self._events = self._events, []
        return events

    def ask_to_stop(self) -> None:
        self._is_stopping = True
