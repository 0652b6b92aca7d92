"""What a person is told when a command fails: the error that was meant for them, however deep an engine wrapped it."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from pathlib import Path

import rayloom
from rayloom.errors import DEFECT_EXIT_CODE, InputError, RayloomError, ResourceError

_PACKAGE = Path(rayloom.__file__).parent
# Where engines keep the error that they wrap: Ray's tasks, and Ray Train's worker groups and controllers.
_WRAPPERS = ("cause", "controller_failure", "__cause__", "__context__")
_OUT_OF_MEMORY = "Give the job fewer or smaller workers, a smaller micro batch, or a machine with more memory."


def told(error: BaseException) -> tuple[str, int]:
    """The message for the person, and the exit code."""
    meant = _meant_for_people(error)
    notes = "".join(f"\n{note}" for note in dict.fromkeys(_notes(error)))
    if meant is not None:
        return f"error: {meant}{notes}", meant.exit_code
    said = traceback.format_exception_only(error)[0].strip()
    if len(said) > 300:
        said = f"{said[:300]}…"
    return (
        f"error: {said}{_place(error)}. This is a defect of Rayloom's, not of your job: please report it with its "
        f"traceback, which --debug shows.{notes}",
        DEFECT_EXIT_CODE,
    )


def _meant_for_people(error: BaseException) -> RayloomError | None:
    """The first error on the way inwards that says something a person can act on."""
    for inner in _inwards(error):
        # Ray's doubles of our errors are instances too, but print the worker's traceback: take the original.
        if isinstance(inner, RayloomError) and type(inner).__module__ == "rayloom.errors":
            return inner
    for inner in _inwards(error):
        translated = _translated(inner)
        if translated is not None:
            return translated
    return None


def _translated(error: BaseException) -> RayloomError | None:
    """A failure of the machine in Rayloom's words."""
    if isinstance(error, MemoryError):
        return ResourceError("This machine ran out of memory", fix=_OUT_OF_MEMORY)
    if type(error).__name__ == "OutOfMemoryError":  # Ray's, whose worker was killed, and torch's, on a GPU
        return ResourceError("A worker ran out of memory", where=type(error).__module__, fix=_OUT_OF_MEMORY)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = str(error.filename or "")
        return ResourceError("The disk is full", where=where, fix="Free space and run the same command again.")
    is_about_a_path = isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError | IsADirectoryError)
    if is_about_a_path and isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return InputError(error.strerror, where=str(error.filename), fix="Check the path and its permissions.")
    return None


def _inwards(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps, nearest first, each once."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        wrapped = [getattr(current, name, None) for name in _WRAPPERS]
        failures = getattr(current, "worker_failures", None)
        wrapped += list(failures.values()) if isinstance(failures, dict) else []
        waiting += [inner for inner in wrapped if isinstance(inner, BaseException)]


def _notes(error: BaseException) -> Iterator[str]:
    for inner in _inwards(error):
        yield from getattr(inner, "__notes__", ())


def _place(error: BaseException) -> str:
    """The last line of Rayloom's own code that the error went through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(_PACKAGE)]
    return f" ({Path(frames[-1].filename).relative_to(_PACKAGE.parent)}:{frames[-1].lineno})" if frames else ""
