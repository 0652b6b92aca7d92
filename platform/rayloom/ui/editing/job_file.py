"""What is done with a job file that is being written: checked as one types, planned, saved, run, submitted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayloom.artifacts.durable import write_durably
from rayloom.errors import InputError, RayloomError, SpecError
from rayloom.kinds import SPECS
from rayloom.pipeline.graph import load_stages
from rayloom.specs.files.document import parse
from rayloom.specs.files.load import Job, load, loaded, validate
from rayloom.specs.pipeline import PipelineSpec

PLAN_SECONDS = 120.0
SUBMIT_SECONDS = 300.0
LOG_SECONDS = 15.0
MOST_OUTPUT_CHARACTERS = 100_000


@dataclass(frozen=True)
class CheckedText:
    """What is wrong with a job file, or in a few words what it is."""

    summary: str = ""
    problems: tuple[str, ...] = ()


def verdict(text: str, file: Path, may_read: bool) -> CheckedText:
    """Every problem of a text as a job file at that place. `may_read`: whether other files that it names are opened."""
    try:
        if not may_read:
            spec = validate(parse(text, file.name), SPECS)
            return CheckedText(f"{spec.kind} {spec.name}")
        job = loaded(text, file, SPECS)
        stages = f", {len(load_stages(job.spec, job, _load))} stages" if isinstance(job.spec, PipelineSpec) else ""
    except SpecError as error:
        return CheckedText(problems=tuple(one.replace(f"{file}:", "line ") for one in error.problems) or (str(error),))
    except RayloomError as error:
        return CheckedText(problems=(str(error),))
    return CheckedText(f"{job.spec.kind} {job.spec.name}{stages}")


def _load(file: Path, overrides: Sequence[str]) -> Job:
    return load(file, SPECS, overrides)


def place(folder: Path, name: str) -> Path:
    """The file of this name below the folder. Raises InputError for a place outside it and for no YAML file."""
    file = (folder / name).resolve()
    if not name or not file.is_relative_to(folder.resolve()) or file.suffix not in (".yaml", ".yml"):
        fix = f"Give the path of a .yaml file below {folder}."
        raise InputError("A job file cannot be saved there", where=name, fix=fix)
    return file


def save(text: str, file: Path, may_replace: bool) -> None:
    """Raises InputError if another text is there and may not be replaced."""
    if file.exists() and not may_replace and file.read_text(encoding="utf-8") != text:
        raise InputError(
            "There is another file of this name", where=str(file), fix="Mark “replace”, or change the name."
        )
    write_durably(file, text)


def plan(text: str, file: Path, store: str) -> tuple[int, str]:
    """Exit code and output of `rayloom plan`, in a process of its own, for a text that need not be saved."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix=".plan-", dir=file.parent, encoding="utf-8") as copy:
        copy.write(text)
        copy.flush()
        code, said = _said(["plan", copy.name], store, PLAN_SECONDS)
        return code, said.replace(copy.name, file.name)


def submit(file: Path, store: str, address: str) -> tuple[int, str]:
    """Exit code and output of `rayloom submit`."""
    return _said(["submit", str(file), "--address", address, "--store", store], store, SUBMIT_SECONDS)


def _said(words: Sequence[str], store: str, limit_seconds: float) -> tuple[int, str]:
    command = [sys.executable, "-m", "rayloom", *words]
    try:
        ended = subprocess.run(
            command,
            env=_environment(store),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        what = f"`rayloom {words[0]}` was not ready after {limit_seconds:.0f} s"
        raise RayloomError(what, fix="On the command line it has no limit.") from None
    return ended.returncode, ended.stdout[-MOST_OUTPUT_CHARACTERS:]


def run(file: Path, store: str, logs: Path) -> str:
    """Starts `rayloom run`, which outlives this server; the name of its log, empty if it wrote none in time."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rayloom", "run", str(file)],
        env=_environment(store),
        cwd=file.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    threading.Thread(target=process.wait, name=f"job-{process.pid}", daemon=True).start()
    end = time.monotonic() + LOG_SECONDS
    while time.monotonic() < end:
        log = next(iter(logs.glob(f"*-{process.pid}-*.jsonl")), None)
        if log is not None:
            return log.name
        if process.returncode is not None:
            break
        time.sleep(0.1)
    return ""


def _environment(store: str) -> dict[str, str]:
    return {**os.environ, "RAYLOOM_STORE": store, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
