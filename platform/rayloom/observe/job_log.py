"""The logs of a run: everything that the engines print, and the job's own lines as JSON Lines for log collectors.

Each JSON line has `time` (UTC), `level` (info or error), `job`, `text`, in a pipeline `stage`, and `rank` if a training
worker said it. The first says `file`, `kind` and `pid` of the job, those about a stage its `state`; the last is an
error or has `state: finished`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayloom.errors import unwrapped
from rayloom.observe.progress import console, messages

_STAGE: ContextVar[str] = ContextVar("stage", default="")


events = logging.getLogger("rayloom.events")
"""Logger of what only the JSON lines hold."""
events.setLevel(logging.INFO)
events.propagate = False
events.addHandler(logging.NullHandler())


def note(text: str, **fields: Any) -> None:
    """Writes one line to the job's JSON lines that nobody has to read on the terminal."""
    events.info("%s", text, extra={"fields": fields})


@contextmanager
def logged_to(file: Path, job: str, stage: str = "", begin: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Also writes to `file` everything that is said in the block, and the error that ended the job, if there is one.

    `begin`: facts about the job for a first line; a last one then says that it finished.
    """
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(_JsonLines(job))
    messages.addHandler(handler)
    events.addHandler(handler)
    try:
        with in_stage(stage):
            if begin is not None:
                note("started", state="running", **begin)
            try:
                yield
                if begin is not None:
                    note("finished", state="finished")
            except BaseException as error:
                text = str(unwrapped(error) if isinstance(error, Exception) else type(error).__name__)
                handler.emit(logging.LogRecord(messages.name, logging.ERROR, "", 0, text, None, None))
                raise
    finally:
        messages.removeHandler(handler)
        events.removeHandler(handler)
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
            **getattr(record, "fields", {}),
        }
        return json.dumps({name: value for name, value in fields.items() if value not in ("", None)})


# The engines' output, redirected from the terminal into one log file.
#
# The file descriptors are redirected, which includes C libraries and child processes; only `say` and the progress bars
# still write to the terminal.

KEPT_LOGS = 50


def new_log(folder: Path, name: str) -> Path:
    """A path for the log of a run that begins now; removes the oldest logs of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.glob("*.log"))[: -KEPT_LOGS + 1]:
        old.unlink(missing_ok=True)
        old.with_suffix(".jsonl").unlink(missing_ok=True)  # its JSON lines, beside it
    started = time.strftime("%Y%m%d-%H%M%S")
    return folder / f"{started}-{os.getpid()}-{re.sub(r'[^a-z0-9.-]+', '-', name)}.log"


@contextmanager
def engines_to(log: Path) -> Iterator[None]:
    """Sends standard output and error of this process and its children to `log` while the block runs.

    An exception is written there with its traceback, and gets a note that names the file.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # Ray forwards its workers' output to this process, so it goes into the same file.
    before = os.environ.get("RAY_LOG_TO_DRIVER")
    os.environ.setdefault("RAY_LOG_TO_DRIVER", "1")
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with (
        log.open("a", encoding="utf-8", buffering=1) as file,
        os.fdopen(os.dup(2), "w", encoding="utf-8", buffering=1) as terminal,
    ):
        # `_file` is None if the console follows `sys.stderr`; its `file` would give the present stream instead.
        shown, console()._file = console()._file, terminal
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            # Python's streams too: they need not use descriptors 1 and 2.
            with redirect_stdout(file), redirect_stderr(file):
                yield
        except BaseException as error:
            traceback.print_exc(file=file)
            error.add_note(f"Everything that the engines said: {log}")
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), kept, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
            console()._file = shown
            if before is None:
                del os.environ["RAY_LOG_TO_DRIVER"]
