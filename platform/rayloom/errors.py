"""The errors that a person is meant to read, as one family.

RayloomError              1   something this command could not do
├── SpecError             2   the job file is wrong; carries every problem at once
├── InputError            3   a file, artifact, model or row that a job was given is missing or unusable
├── ResourceError         4   the machine or cluster lacks what the job needs (memory, port, disk, GPU)
├── QualityError          5   the job ran and its result is not good enough to publish
└── InterruptedJobError 130   stopped by a person or a scheduler; running the same command again continues

The number is the exit code. Each error says what happened, where, and what to do about it. Anything else that escapes
is a defect of Rayloom's and is reported as one (exit code 70), with the way to see its traceback (`--debug`).
"""

from __future__ import annotations

from typing import ClassVar

DEFECT_EXIT_CODE = 70
INTERRUPTED_EXIT_CODE = 130


class RayloomError(Exception):
    """What happened (`what`), where (`where`: a file, path or address), and what to do (`fix`)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        advice = f" {self.fix}" if self.fix else ""
        return f"{self.what}{place}.{advice}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (Ray pickles them); keyword-only arguments need this to survive the trip.
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(kind: type[RayloomError], what: str, where: str, fix: str) -> RayloomError:
    error = kind.__new__(kind)
    RayloomError.__init__(error, what, where=where, fix=fix)
    return error


class SpecError(RayloomError):
    """The job file is wrong: `problems` holds one finished line for each thing to mend."""

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
