"""What is kept of each request: one line of JSON, and the same facts for metrics. Prompts are not among them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_FILE_BYTES = 64 << 20
KEPT_FILES = 5


@dataclass
class Record:
    """One request, filled while it is answered."""

    request_id: str
    method: str
    path: str
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    caller: str = ""
    """Id of the API key."""
    model: str = ""
    """As the request names it."""
    served_by: str = ""
    """The model of the service that answers it, and below the adapter; empty where the service has none such."""
    adapter: str = ""
    status: int = 0
    """0 where the client left before there was one."""
    error: str = ""
    """The refusal's code, `cut_off`, or `client_left`."""
    request_bytes: int = 0
    answer_bytes: int = 0
    num_pieces: int = 0
    """Events of a stream: one a token, unless the client reads slower than they come."""
    num_attempts: int = 0
    replica: str = ""
    first_piece_seconds: float | None = None
    seconds: float = 0.0
    prompt: str | None = None
    """The request's body, only where the service was told to keep it."""


class Stopwatch:
    """Seconds since a request came in."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._began = clock, clock()

    def seconds(self) -> float:
        return round(self._clock() - self._began, 4)


def line(record: Record) -> str:
    facts = {name: value for name, value in asdict(record).items() if value not in (None, "")}
    return json.dumps(facts, ensure_ascii=False)


def file_sink(path: Path) -> Callable[[Record], None]:
    """Appends lines to a file that is replaced by a new one when it is large."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=MAX_FILE_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))

    def write(record: Record) -> None:
        handler.emit(logging.LogRecord("access", logging.INFO, "", 0, line(record), None, None))

    return write
