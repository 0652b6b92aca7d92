"""What a job told people, as one JSON object a line beside the engines' log: for log collectors and for looking back.

Each line has `time` (UTC), `level` (info or error), `job`, `stage` (in a pipeline), `rank` (of the training worker that
said it, where one did) and `text`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from rayloom.observe import progress

_STAGE: ContextVar[str] = ContextVar("stage", default="")


@contextmanager
def told_to(file: Path, job: str, stage: str = "") -> Iterator[None]:
    """Inside, everything that is said is also written there, and at the end the error that ended the job."""
    with file.open("a", encoding="utf-8", buffering=1) as lines, in_stage(stage):

        def write(text: str, rank: int | None) -> None:
            _write(lines, "info", job, text, rank)

        progress.LISTENERS.append(write)
        try:
            yield
        except BaseException as error:
            _write(lines, "error", job, str(error) or type(error).__name__, None)
            raise
        finally:
            progress.LISTENERS.remove(write)


@contextmanager
def in_stage(name: str) -> Iterator[None]:
    """Inside, what is said belongs to this stage of a pipeline."""
    token = _STAGE.set(name)
    try:
        yield
    finally:
        _STAGE.reset(token)


def _write(lines: IO[str], level: str, job: str, text: str, rank: int | None) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    record: dict[str, Any] = {
        "time": now,
        "level": level,
        "job": job,
        "stage": _STAGE.get(),
        "rank": rank,
        "text": text,
    }
    lines.write(json.dumps({name: value for name, value in record.items() if value not in ("", None)}) + "\n")
