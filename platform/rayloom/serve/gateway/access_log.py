"""The access log: a line of JSON for each request, without prompts by default; metrics are counted from it too."""

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
class AccessRecord:
    """The record of one request; its fields are filled in while it is answered."""

    request_id: str
    method: str
    path: str
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    caller: str = ""
    """Id of the API key."""
    model: str = ""
    """The model as named in the request."""
    served_by: str = ""
    """The model of the service that answers it, without the adapter; empty if there is none."""
    adapter: str = ""
    status: int = 0
    """HTTP status; 0 if the client disconnected before there was one."""
    error: str = ""
    """The code of the refusal, `cut_off`, or `client_left`; empty if there was no error."""
    request_bytes: int = 0
    answer_bytes: int = 0
    num_pieces: int = 0
    """Events of a stream sent to the client: one for each token, or fewer if the client reads slowly."""
    num_attempts: int = 0
    replica: str = ""
    first_piece_seconds: float | None = None
    seconds: float = 0.0
    prompt: str | None = None
    """The request's body, only if `logs.prompts` is set."""


class Stopwatch:
    """Seconds since a request came in."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._began = clock, clock()

    def seconds(self) -> float:
        return round(self._clock() - self._began, 4)


def line(record: AccessRecord) -> str:
    fields = {name: value for name, value in asdict(record).items() if value not in (None, "")}
    return json.dumps(fields, ensure_ascii=False)


def file_sink(path: Path) -> Callable[[AccessRecord], None]:
    """A function that appends records to a file, which is rotated when it is full; KEPT_FILES old ones are kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=MAX_FILE_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))

    def write(record: AccessRecord) -> None:
        handler.emit(logging.LogRecord("access", logging.INFO, "", 0, line(record), None, None))

    return write
