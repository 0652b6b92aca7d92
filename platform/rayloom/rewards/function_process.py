"""A Python function in a process of its own: with a time limit, and without this process' environment variables."""

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
from typing import Any, Literal

from rayloom.errors import InputError
from rayloom.rewards.answer import CannotJudgeError, OneByOne, Verdict, WrittenAnswer
from rayloom.specs.training.rewards import CalledFunction

ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
"""What a reward's process sees of the environment: none of the job's variables, which may hold keys."""
MOST_SECONDS_TO_START = 120.0
"""Imports read packages from the disk, which takes longer than an answer."""
_SCRIPT = Path(__file__).with_name("served_function.py")


@dataclass
class FunctionProcess:
    """Calls `function` (MODULE:FUNCTION, of a file in `folder`), a reward by `judge`; its process ends with the block.

    The process is started with the block, and again for the answer after one at which it hung or ended.
    Raises InputError at the start if the function does not import.
    """

    function: str
    folder: Path
    arguments: Mapping[str, Any]
    seconds: float
    memory_mb: int
    returns: Literal["number", "json"] = "number"
    """json: anything that JSON can hold."""
    _process: subprocess.Popen[bytes] | None = None
    _received: bytes = b""
    _home: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)

    @classmethod
    def of(cls, spec: CalledFunction, folder: Path, returns: Literal["number", "json"] = "number") -> FunctionProcess:
        return cls(spec.function, folder, spec.arguments, spec.seconds, spec.memory_mb, returns)

    def __enter__(self) -> FunctionProcess:
        try:
            self._start()
        except CannotJudgeError as error:
            self.__exit__()
            fix = "Correct it; it is imported without this job's environment."
            where = f"{self.folder}/{self.function}"
            raise InputError(f"The function does not import: {error}", where=where, fix=fix) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._home.cleanup()

    def judge(self, answers: Sequence[WrittenAnswer]) -> list[Verdict]:
        one_by_one = OneByOne(lambda answer: self.call(list(map(dict, answer.prompt)), answer.text, dict(answer.row)))
        return one_by_one.judge(answers)

    def call(self, *given: Any) -> Any:
        """What the function returns. Raises CannotJudgeError: raised, took_too_long, process_ended."""
        if self._process is None:
            self._start()
        return self._asked(json.dumps([given, dict(self.arguments)], default=str).encode() + b"\n", self.seconds)

    def _start(self) -> None:
        command = [sys.executable, "-I", str(_SCRIPT), str(self.folder), self.function, self.returns]
        self._process = subprocess.Popen(
            [*command, str(MOST_SECONDS_TO_START), str(self.seconds), str(self.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._home.name,
            env=ENVIRONMENT | {"HOME": self._home.name},
            start_new_session=True,
        )
        self._received = b""
        try:
            self._asked(b"", MOST_SECONDS_TO_START)
        except CannotJudgeError:
            self._end()
            raise

    def _asked(self, line: bytes, seconds: float) -> Any:
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
            raise CannotJudgeError("took_too_long", f"more than {seconds:g} s")
        if not reply:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            raise CannotJudgeError("process_ended", _cause(self._end()))
        said = json.loads(reply)
        if "raised" in said:
            raise CannotJudgeError("raised", said["raised"])
        return said.get("value")

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
