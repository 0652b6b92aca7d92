"""Runs stages in parallel, each in a process of its own, with separate signal handlers, logs and memory.

Each process runs one job file (`python -m rayloom run FILE --as-stage STAGE`); all share one Ray cluster.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rayloom.errors import BY_EXIT_CODE, RayloomError
from rayloom.observe.progress import say

_ERROR = "error: "


def stage_command(stage: str, file: Path, overrides: Sequence[str]) -> list[str]:
    """The command line of one stage's process."""
    words = [sys.executable, "-m", "rayloom", "run", str(file), "--as-stage", stage]
    return [*words, *(word for override in overrides for word in ("--set", override))]


def error_of(exit_code: int, output: Sequence[str], name: str) -> RayloomError:
    """The error that ended a stage's process, rebuilt from its exit code and output."""
    kind = BY_EXIT_CODE.get(exit_code, RayloomError)
    first = next((number for number, line in enumerate(output) if line.startswith(_ERROR)), None)
    if first is None:
        last = output[-1] if output else f"its process ended with {exit_code}"
        return kind(f"stage {name}: {last}")
    error = kind(output[first].removeprefix(_ERROR).rstrip("."))
    for line in output[first + 1 :]:
        error.add_note(line)
    return error


class Processes:
    """The processes of the running stages; `ended` yields those that are over."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **environment}
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._ended: queue.Queue[tuple[str, RayloomError | None]] = queue.Queue()

    def start(self, name: str, command: Sequence[str]) -> None:
        # In a process group of its own: only the parent receives Ctrl-C, and passes it on once.
        process = subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
        self._running[name] = process
        threading.Thread(target=self._listen, args=(name, process), name=f"stage-{name}", daemon=True).start()

    def ended(self) -> Iterator[tuple[str, RayloomError | None]]:
        """Waits for a stage to end; yields it and any others that have ended, each with its error or None."""
        name, error = self._ended.get()
        while True:
            self._running.pop(name)
            yield name, error
            try:
                name, error = self._ended.get_nowait()
            except queue.Empty:
                return

    def stop(self) -> None:
        """Asks all processes to save and end, and waits for them; a second Ctrl-C kills them."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)  # handled like Ctrl-C; a shell may have set SIGINT to be ignored
        try:
            for process in self._running.values():
                process.wait()
        except KeyboardInterrupt:
            for process in self._running.values():
                process.kill()
            raise

    def _listen(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        output = []
        with process.stdout as lines:
            for line in lines:
                output.append(line.rstrip())
                say(f"{name}: {output[-1]}")
        code = process.wait()
        self._ended.put((name, None if code == 0 else error_of(code, output, name)))
