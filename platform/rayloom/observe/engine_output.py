"""Redirects everything that the engines print from the terminal into one log file.

The file descriptors are redirected, which includes C libraries and child processes; only `say` and the progress bars
still write to the terminal.
"""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from rayloom.observe.progress import console

KEPT_LOGS = 50


def new_log(folder: Path, name: str) -> Path:
    """A path for the log of a run that begins now; removes the oldest logs of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.glob("*.log"))[: -KEPT_LOGS + 1]:
        old.unlink(missing_ok=True)
        old.with_suffix(".jsonl").unlink(missing_ok=True)  # the log of `job_log` beside it
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
