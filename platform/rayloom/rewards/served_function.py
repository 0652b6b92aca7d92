"""A process that calls one function again and again; a script of the standard library, started by `function_process`.

    python -I served_function.py FOLDER MODULE:FUNCTION number|json SECONDS_TO_START SECONDS MEMORY_MB

Each line of standard input is a JSON list [arguments, named arguments]; each gets one line: {"value": …} or
{"raised": …}. The first line tells whether the import went well.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any, TextIO


def main() -> None:
    folder, named, returns, seconds_to_start, seconds, memory_mb = sys.argv[1:]
    size = int(memory_mb) << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    # What the function prints goes to the job's log, not between the answers.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.insert(0, folder)
    module, _, name = named.partition(":")
    found: list[Callable[..., Any]] = []
    _reply(replies, float(seconds_to_start), lambda: found.append(getattr(importlib.import_module(module), name)))
    shown = _number if returns == "number" else _as_it_is
    for line in sys.stdin if found else ():
        arguments, keywords = json.loads(line)
        _reply(replies, float(seconds), lambda: shown(found[0](*arguments, **keywords)))  # noqa: B023


def _reply(replies: TextIO, seconds: float, call: Callable[[], Any]) -> None:
    # Ends this process where the one that waits for it is no longer there to do so.
    faulthandler.dump_traceback_later(seconds + 5, exit=True)
    try:
        said = json.dumps({"value": call()})
    except BaseException as error:  # noqa: BLE001  # SystemExit of a user's function too
        said = json.dumps({"raised": f"{type(error).__name__}: {error}"[:300]})
    faulthandler.cancel_dump_traceback_later()
    replies.write(said + "\n")
    replies.flush()


def _as_it_is(value: Any) -> Any:
    return value


def _number(value: Any) -> float:
    number = float(value)
    if number - number != 0:
        raise ValueError(f"the result is {number}, not a finite number")
    return number


if __name__ == "__main__":
    main()
