"""What to do when workers fail: sorts out the cause, and decides; whoever runs the workers acts on the decision.

No engine is imported here: errors are known by their names, since those of Ray, torch and the collectives arrive as
copies from other processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from rayloom.errors import RayloomError, ResourceError
from rayloom.specs.training.endurance import Faults

_MEMORY_SIGNS = ("OutOfMemoryError", "MemoryError", "can't allocate memory", "CUDA out of memory")
_DEATH_SIGNS = ("WorkerHealthCheck", "ActorDied", "ActorUnavailable", "WorkerCrashed", "NodeDied", "Preemption")
_COLLATERAL_SIGNS = ("Connection closed by peer", "Connection reset by peer", "NCCL", "gloo")
"""What the other workers say when one is gone."""


class Cause(Enum):
    """Why workers failed."""

    OURS = "the training says so itself, in a sentence"
    OUT_OF_MEMORY = "a device or the machine has too little memory"
    DEATH = "a process or machine went away"
    DEFECT = "an error that nobody foresaw"


@dataclass(frozen=True)
class Failure:
    """The first cause among what all workers reported."""

    cause: Cause
    error: BaseException


@dataclass(frozen=True)
class Restart:
    """Workers are started again, from the last checkpoint."""

    micro_batch_sequences: int
    why: str


@dataclass(frozen=True)
class Stop:
    """The job ends with this error."""

    error: BaseException


def first_cause(errors: Sequence[BaseException]) -> Failure:
    """Sorts one worker's own trouble from what it did to the others."""
    flat = [part for error in errors for part in _parts(error)]
    for error in flat:
        if isinstance(error, RayloomError):
            return Failure(Cause.OURS, error)
    for cause, signs in (
        (Cause.OUT_OF_MEMORY, _MEMORY_SIGNS),
        (Cause.DEATH, _DEATH_SIGNS),
    ):
        for error in flat:
            if any(sign in f"{type(error).__name__}: {error}" for sign in signs):
                return Failure(cause, error)
    rest = [error for error in flat if not any(sign in str(error) for sign in _COLLATERAL_SIGNS)]
    return Failure(Cause.DEFECT, rest[0]) if rest else Failure(Cause.DEATH, flat[0])


def _parts(error: BaseException) -> Iterator[BaseException]:
    """The error, and the one that Ray wrapped into it."""
    inner = getattr(error, "cause", None) or getattr(error, "health_check_failure", None)
    if isinstance(inner, BaseException):
        yield from _parts(inner)
    yield error


def after_failure(policy: Faults, failure: Failure, micro_batch_sequences: int, num_restarts: int) -> Restart | Stop:
    """`num_restarts`: how often workers were started again already."""
    if failure.cause in (Cause.OURS, Cause.DEFECT):
        return Stop(failure.error)
    if failure.cause is Cause.OUT_OF_MEMORY:
        return _after_out_of_memory(policy, micro_batch_sequences)
    if num_restarts < policy.max_restarts:
        return Restart(micro_batch_sequences, f"a worker died; start {num_restarts + 2} of {policy.max_restarts + 1}")
    what = "A training worker died" + (f", {num_restarts + 1} times in all" if num_restarts else "")
    fix = "Run the same command again; it continues at its last checkpoint. If it dies there again, lower its memory."
    return Stop(ResourceError(what, fix=fix))


def _after_out_of_memory(policy: Faults, micro_batch_sequences: int) -> Restart | Stop:
    half = micro_batch_sequences // 2
    if policy.out_of_memory == "halve_micro_batch" and half:
        why = f"out of memory: micro_batch_sequences {micro_batch_sequences} → {half}, with the same global batch"
        return Restart(half, why)
    what = f"Training ran out of memory at micro_batch_sequences {micro_batch_sequences}"
    fix = "Lower micro_batch_sequences or sequence_length_tokens, or raise sharding.zero_stage."
    return Stop(ResourceError(what, fix=fix))
