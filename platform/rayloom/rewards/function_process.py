"""A reward by a Python function in a process of its own: with a time limit, and without this process' environment."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayloom.errors import InputError
from rayloom.rewards.answer import Verdict, WrittenAnswer

ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
"""What a reward's process sees of the environment: none of the job's variables, which may hold keys."""
MOST_SECONDS_TO_START = 120.0
"""Imports read packages from the disk, which takes longer than an answer."""
_SCRIPT = Path(__file__).with_name("served_function.py")


@dataclass
class FunctionProcess:
    """A reward that calls `function` (MODULE:FUNCTION of a file in `folder`); ends its process with the block.

    The process is started with the block, and again for the answer after one at which it hung or ended.
    Raises InputError at the start if the function does not import.
    """

    function: str
    folder: Path
    arguments: Mapping[str, Any]
    seconds: float
    memory_mb: int
    _process: subprocess.Popen[bytes] | None = None
    _received: bytes = b""
    _home: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)

    def __enter__(self) -> FunctionProcess:
        said = self._started()
        if said.problem is not None:
            self.__exit__()
            fix = "Correct it; it is imported without this job's environment."
            raise InputError(
                f"The reward's function does not import: {said.problem}",
                where=f"{self.folder}/{self.function}",
                fix=fix,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._home.cleanup()

    def judge(self, answers: Sequence[WrittenAnswer]) -> list[Verdict]:
        return [self._judged(answer) for answer in answers]

    def _judged(self, answer: WrittenAnswer) -> Verdict:
        if self._process is None:
            said = self._started()
            if said.problem is not None:
                return said
        call = [[list(map(dict, answer.prompt)), answer.text, dict(answer.row)], dict(self.arguments)]
        return self._asked(json.dumps(call, default=str).encode() + b"\n", self.seconds)

    def _started(self) -> Verdict:
        command = [sys.executable, "-I", str(_SCRIPT), str(self.folder), self.function]
        self._process = subprocess.Popen(
            [*command, str(MOST_SECONDS_TO_START), str(self.seconds), str(self.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._home.name,
            env=ENVIRONMENT | {"HOME": self._home.name},
            start_new_session=True,
        )
        self._received = b""
        return self._asked(b"", MOST_SECONDS_TO_START)

    def _asked(self, line: bytes, seconds: float) -> Verdict:
        """What the process says to a line; it is ended if it says nothing in time."""
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = self._line(time.monotonic() + seconds)
        except BrokenPipeError:
            reply = b""
        if reply is None:
            self._end()
            return Verdict(problem=f"took_too_long: more than {seconds:g} s")
        if not reply:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            code = self._end()
            return Verdict(problem=f"process_ended: {_cause(code)}")
        said = json.loads(reply)
        return Verdict(problem=f"raised: {said['raised']}") if "raised" in said else Verdict(said.get("value", 0.0))

    def _line(self, deadline: float) -> bytes | None:
        """The next line of the process; empty if it ended, None if there is none by the deadline."""
        assert self._process is not None and self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                piece = os.read(self._process.stdout.fileno(), 65536)
                if not piece:
                    return b""
                self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _end(self) -> int:
        """Ends the process with all that it has started; returns how it ended."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with process:  # closes its pipes and waits
            pass
        return process.returncode


def _cause(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
