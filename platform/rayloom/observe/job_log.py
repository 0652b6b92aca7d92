"""The job's own log lines as JSON Lines, in a file beside the engines' log, for log collectors.

Each line has `time` (UTC), `level` (info or error), `job`, `text`, in a pipeline `stage`, and `rank` if a training
worker said it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

from rayloom.errors import unwrapped
from rayloom.observe.progress import messages

_STAGE: ContextVar[str] = ContextVar("stage", default="")


@contextmanager
def logged_to(file: Path, job: str, stage: str = "") -> Iterator[None]:
    """Also writes to `file` everything that is said in the block, and the error that ended the job, if there is one."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(_JsonLines(job))
    messages.addHandler(handler)
    try:
        with in_stage(stage):
            try:
                yield
            except BaseException as error:
                text = str(unwrapped(error) if isinstance(error, Exception) else type(error).__name__)
                handler.emit(logging.LogRecord(messages.name, logging.ERROR, "", 0, text, None, None))
                raise
    finally:
        messages.removeHandler(handler)
        handler.close()


@contextmanager
def in_stage(name: str) -> Iterator[None]:
    """Marks everything that is said in the block with this stage of a pipeline."""
    token = _STAGE.set(name)
    try:
        yield
    finally:
        _STAGE.reset(token)


class _JsonLines(logging.Formatter):
    """Formats each record as one JSON object, without empty fields."""

    def __init__(self, job: str) -> None:
        super().__init__()
        self._job = job

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "job": self._job,
            "stage": _STAGE.get(),
            "rank": getattr(record, "rank", None),
            "text": record.getMessage(),
        }
        return json.dumps({name: value for name, value in fields.items() if value not in ("", None)})
