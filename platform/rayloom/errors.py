"""The errors that users read, with their exit codes.

RayloomError              1   something this command could not do
├── SpecError             2   the job file is wrong; carries every problem at once
├── InputError            3   a file, artifact, model or row that a job was given is missing or unusable
├── ResourceError         4   the machine or cluster lacks what the job needs (memory, port, disk, GPU)
├── QualityError          5   the job ran and its result is not good enough to publish
├── InterruptedJobError 130   stopped by a person or a scheduler; running the same command again continues
└── DefectError          70   an unexpected exception: a defect of Rayloom, with the place in its code

The number is the exit code. Each error says what happened, where, and what to do about it. `unwrapped` turns any
exception, also one from another process, into one of these.
"""

from __future__ import annotations

import difflib
import errno
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from rayloom.engine_errors import causes, is_out_of_memory, is_unreachable_store, lacks_credentials, refused_by_store

INTERRUPTED_EXIT_CODE = 130
_LONGEST_MESSAGE = 300
_OUT_OF_MEMORY = "Give the job fewer or smaller workers, a smaller micro batch, or a machine with more memory."
_FULL_STORE_SIGNS = ("StorageFull", "QuotaExceeded", "InsufficientStorage", "InsufficientCapacity")
"""Ends of the codes by which servers of S3 say that there is no room."""
_PACKAGE = Path(__file__).parent


class RayloomError(Exception):
    """What happened (`what`), where (`where`: a file, path or address), and what to do (`fix`)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        advice = f" {self.fix}" if self.fix else ""
        return f"{self.what}{where}.{advice}"

    def __reduce__(self) -> tuple[object, ...]:
        # Ray pickles errors to send them between processes; keyword-only arguments need this method.
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(kind: type[RayloomError], what: str, where: str, fix: str) -> RayloomError:
    error = kind.__new__(kind)
    RayloomError.__init__(error, what, where=where, fix=fix)
    return error


class SpecError(RayloomError):
    """The job file is wrong: `problems` holds one line for each problem."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(what, where=where, fix=fix)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {problem}" for problem in self.problems)])

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_spec_error, (self.what, self.where, self.fix, self.problems))


def _rebuild_spec_error(what: str, where: str, fix: str, problems: tuple[str, ...]) -> SpecError:
    return SpecError(what, where=where, fix=fix, problems=problems)


class InputError(RayloomError):
    """A file, artifact, model or row that a job was given is missing or unusable."""

    exit_code = 3


class ResourceError(RayloomError):
    """The machine or cluster lacks what the job needs: memory, a port, disk, a GPU."""

    exit_code = 4


class QualityError(RayloomError):
    """The job ran, and its result is not good enough to publish under the spec's own limits."""

    exit_code = 5


class InterruptedJobError(RayloomError):
    """Stopped by a person or a scheduler; the same command continues from the last checkpoint."""

    exit_code = INTERRUPTED_EXIT_CODE


class DefectError(RayloomError):
    """An unexpected exception, with the innermost line of Rayloom's own code in its traceback."""

    exit_code = 70


BY_EXIT_CODE: dict[int, type[RayloomError]] = {kind.exit_code: kind for kind in RayloomError.__subclasses__()}
"""The error behind the exit code of a `rayloom` process."""


def nearest(word: object, known: Iterable[str], closeness: float = 0.6) -> str:
    """`; did you mean X?` if a known word is similar, else an empty text."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=closeness)
    return f"; did you mean {near[0]}?" if near else ""


def is_ours(error: BaseException) -> bool:
    """Whether it is one of these errors. Ray's copies of them are not: their text holds the worker's traceback."""
    return isinstance(error, RayloomError) and type(error).__module__ == __name__


def unwrapped(error: BaseException) -> RayloomError:
    """The error for the user: the first RayloomError among `causes`, else a translation, else a DefectError.

    An error that is made here has `error` as its cause.
    """
    for inner in causes(error):
        if isinstance(inner, RayloomError) and is_ours(inner):
            return inner
    translated = next(filter(None, map(_translated, causes(error))), None) or _defect(error)
    translated.__cause__ = error
    return translated


def _translated(error: BaseException) -> RayloomError | None:
    """A known failure of the machine, its packages or an object store as a RayloomError; None for any other."""
    if isinstance(error, MemoryError):
        return ResourceError("This machine ran out of memory", fix=_OUT_OF_MEMORY)
    if is_out_of_memory(error):
        return ResourceError("A worker ran out of memory", where=type(error).__module__, fix=_OUT_OF_MEMORY)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("rayloom"):
        fix = "Install the engines: `make setup` in a checkout, else Rayloom's wheel with its lock (cluster/README.md)."
        return ResourceError(f"The package {error.name} is not installed", fix=fix)
    if (refusal := _of_the_store(error)) is not None:
        return refusal
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = str(error.filename or "")
        return ResourceError("The disk is full", where=where, fix="Free space and run the same command again.")
    is_about_a_path = isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError | IsADirectoryError)
    if is_about_a_path and error.filename is not None and error.strerror is not None:
        return InputError(error.strerror, where=str(error.filename), fix="Check the path and its permissions.")
    return None


def _of_the_store(error: BaseException) -> RayloomError | None:
    """A failure of an object store or of its client as a RayloomError; None for any other."""
    if lacks_credentials(error):
        fix = "Set them in the environment (S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), or use a node with a role."
        return InputError("The object store asks for credentials, and there are none here", fix=fix)
    if is_unreachable_store(error):
        fix = "Check the network and the endpoint (S3: AWS_ENDPOINT_URL), and run the same command again."
        return ResourceError(f"The object store does not answer: {error}".rstrip("."), fix=fix)
    if isinstance(error, PermissionError) and error.filename is None:
        fix = "Check the credentials in the environment and what they may do there."
        return InputError(f"Access is denied: {error}".rstrip("."), fix=fix)
    code, message = refused_by_store(error)
    if code.endswith(_FULL_STORE_SIGNS):
        fix = "Free space there or raise its quota, and run the same command again: it continues."
        return ResourceError(f"The object store is full: {code}", fix=fix)
    if code:
        fix = "Check the bucket's rules and the settings of endpoint and region, and run the same command again."
        return ResourceError(f"The object store refuses a request: {code} ({message})", fix=fix)
    return None


def _defect(error: BaseException) -> DefectError:
    what = traceback.format_exception_only(error)[0].strip()
    what = f"{what[:_LONGEST_MESSAGE]}…" if len(what) > _LONGEST_MESSAGE else what
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(_PACKAGE)]
    where = f"{Path(frames[-1].filename).relative_to(_PACKAGE.parent)}:{frames[-1].lineno}" if frames else ""
    fix = "This is a defect of Rayloom's, not of your job: please report it with its traceback, which --debug shows."
    return DefectError(what, where=where, fix=fix)
