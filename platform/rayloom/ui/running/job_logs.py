"""The runs of this machine, from their logs: what each is, whether it still runs, how far it is, and what it said."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from rayloom.errors import InputError, RayloomError

_NAME = re.compile(r"(\d{8}-\d{6})-(\d+)-([a-z]+)-(.+)\.jsonl")
_PROGRESS = re.compile(r"^(?P<label>.+?): (?P<done>\d+)/(?P<total>\d+) (?P<rest>.+)$")
_MADE = re.compile(r"^(\S+@[0-9a-f]{12}) (?:made|was finished already)")
TAIL_BYTES = 64 << 10
MOST_LINES = 300
CLOCK_SECONDS = 5.0
"""A process that began later than this after a log's name is another one with the same number."""


@dataclass(frozen=True)
class StageState:
    """How a stage of a pipeline is."""

    status: str
    why: str = ""
    artifact: str = ""


@dataclass
class JobRun:
    """One run of `rayloom run`."""

    log: str
    """Name of its log, without the folder."""
    kind: str
    name: str
    pid: int
    started: float
    """Seconds since 1970."""
    state: str = "ended"
    """running, finished, failed, stopped; ended: its process is gone without a word."""
    file: str = ""
    """The job file."""
    error: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """The last lines."""
    stages: dict[str, StageState] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    """Ids of artifacts that it made or found."""
    progress: tuple[str, int, int, str] | None = None
    """Label, how many of how many, and the rest of the line."""

    @property
    def ended(self) -> float:
        """When it last said something."""
        last = self.lines[-1].get("time") if self.lines else None
        return datetime.fromisoformat(last).timestamp() if last else self.started


def runs(folder: Path, most: int = 50) -> list[JobRun]:
    """The newest runs, without their stages' lines."""
    names = sorted((path.name for path in folder.glob("*.jsonl") if _NAME.fullmatch(path.name)), reverse=True)
    return [run_of(folder, name) for name in names[:most]]


def run_of(folder: Path, log: str) -> JobRun:
    """One run with its last lines. Raises InputError if there is no such log."""
    match = _NAME.fullmatch(log)
    path = folder / log
    if match is None or not path.is_file():
        raise InputError("There is no such run on this machine", where=log, fix="The logs of older runs are removed.")
    started = datetime.strptime(match[1], "%Y%m%d-%H%M%S").astimezone().timestamp()
    run = JobRun(log, match[3], match[4], int(match[2]), started)
    last: deque[dict[str, Any]] = deque(maxlen=MOST_LINES)
    for line in _lines(path):
        _note(run, line)
        if not {"of_stage", "pid"} & set(line):
            last.append(line)
    run.lines = list(last)
    if run.state == "running" and not is_alive(run):
        run.state = "ended"
    return run


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The first lines of a log, and, if it is long, its last."""
    with path.open("rb") as file:
        yield from _parsed(file.read(TAIL_BYTES))
        size = file.seek(0, 2)
        if size > TAIL_BYTES:
            file.seek(max(TAIL_BYTES, size - 4 * TAIL_BYTES))
            yield from _parsed(file.read())


def _parsed(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue  # cut off at either end
        if isinstance(values, dict) and isinstance(values.get("text"), str):
            yield values


def _note(run: JobRun, line: Mapping[str, Any]) -> None:
    """What a line says about the run."""
    text = str(line["text"])
    if "of_stage" in line:
        stage = StageState(str(line.get("state", "")), str(line.get("why", "")), str(line.get("artifact", "")))
        run.stages[str(line["of_stage"])] = stage
        return
    if "file" in line:
        run.file, run.state = str(line["file"]), "running"
    elif line.get("state") == "finished":
        run.state, run.progress = "finished", None
    elif line.get("level") == "error":
        is_stop = "asked to stop" in text or "KeyboardInterrupt" in text
        run.state, run.error, run.progress = ("stopped" if is_stop else "failed"), text, None
    elif (found := _PROGRESS.match(text)) is not None:
        run.progress = (found["label"], int(found["done"]), int(found["total"]), found["rest"])
    elif (made := _MADE.match(text)) is not None:
        run.made.append(made[1])


def is_alive(run: JobRun) -> bool:
    """Whether the process that wrote the log still runs; another one may have its number by now."""
    try:
        process = psutil.Process(run.pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= run.started + CLOCK_SECONDS
    except psutil.Error:
        return False


def stop(run: JobRun) -> None:
    """Asks the run to save and end, as Ctrl-C does. Raises RayloomError if it does not run, or is another user's."""
    if run.state != "running" or not is_alive(run):
        raise RayloomError(f"{run.name} does not run any more", where=run.log)
    try:
        os.kill(run.pid, signal.SIGTERM)
    except PermissionError:
        raise RayloomError(f"{run.name} runs as another user", where=run.log, fix="Stop it as that user.") from None


def engine_output(folder: Path, log: str) -> str:
    """The end of what the engines printed."""
    path = (folder / log).with_suffix(".log")
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def now() -> float:
    return datetime.now(UTC).timestamp()
