"""What to do when workers fail: finds the cause, decides on a restart, and notes the micro-batch size of each start.

Errors of Ray, torch and collectives arrive as copies from other processes; `rayloom.engine_errors` recognises them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

from rayloom.artifacts.durable import write_durably
from rayloom.engine_errors import (
    is_consequence,
    is_lost_process,
    is_out_of_memory,
    is_unreachable_store,
    reported_by_ray,
)
from rayloom.errors import ResourceError, is_ours, unwrapped
from rayloom.specs.training.endurance import Faults
from rayloom.train.job import TrainJob


class Cause(Enum):
    """Why workers failed; the value explains it."""

    OURS = "the training says so itself, in a sentence"
    OUT_OF_MEMORY = "a device or the machine has too little memory"
    DEATH = "a process or machine went away"
    STORE = "the object store did not answer one of them"
    DEFECT = "an error that nobody foresaw"


@dataclass(frozen=True)
class Failure:
    """The cause of a failure of workers, and the error of the worker that had it."""

    cause: Cause
    error: BaseException


@dataclass(frozen=True)
class Restart:
    """Decision: start the workers again from the last checkpoint."""

    micro_batch_sequences: int
    why: str


@dataclass(frozen=True)
class Stop:
    """Decision: end the job with this error."""

    error: BaseException


def first_cause(errors: Sequence[BaseException]) -> Failure:
    """The original error, not those that it led to on other workers, and its cause."""
    flat = [inner for error in errors for inner in reported_by_ray(error)]
    for error in flat:
        if is_ours(error):
            return Failure(Cause.OURS, error)
    known = (
        (Cause.OUT_OF_MEMORY, is_out_of_memory), (Cause.DEATH, is_lost_process), (Cause.STORE, is_unreachable_store),
    )  # fmt: skip
    for cause, is_it in known:
        for error in flat:
            if is_it(error):
                return Failure(cause, error)
    rest = [error for error in flat if not is_consequence(error)]
    return Failure(Cause.DEFECT, rest[0]) if rest else Failure(Cause.DEATH, flat[0])


def after_failure(policy: Faults, failure: Failure, micro_batch_sequences: int, num_restarts: int) -> Restart | Stop:
    """The decision after a failure. `num_restarts`: restarts of this command so far."""
    if failure.cause in (Cause.OURS, Cause.DEFECT):
        return Stop(failure.error)
    if failure.cause is Cause.OUT_OF_MEMORY:
        return _after_out_of_memory(policy, micro_batch_sequences)
    is_store = failure.cause is Cause.STORE
    if num_restarts < policy.max_restarts:
        what = "the object store did not answer a worker" if is_store else "a worker died"
        return Restart(micro_batch_sequences, f"{what}; start {num_restarts + 2} of {policy.max_restarts + 1}")
    if is_store:
        return Stop(unwrapped(failure.error))
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


# Restarts of a job's workers: their count, and the micro-batch size of each.
#
# Memory may have run out only because another process used it for a while, and a smaller micro-batch is slower. So the
# spec's micro-batch size is tried again: at the start of every command, and during a run after some steps.

NOTE_NAME = "micro_batch.json"
RETRY_AFTER_STEPS = 100
"""Steps with a smaller micro-batch before the spec's is tried again; doubled each time that it fails."""


@dataclass
class Attempts:
    """Starts of the workers by one command. `job`: the job to start next."""

    job: TrainJob
    num_restarts: int = 0
    num_out_of_memory: int = 0

    @classmethod
    def first(cls, job: TrainJob) -> Self:
        return cls(replace(job, micro_batch_sequences=job.spec.micro_batch_sequences))

    def restart(self, decision: Restart, is_out_of_memory: bool) -> None:
        """Sets `job` and the counts according to the decision."""
        self.num_restarts += 1
        self.num_out_of_memory += is_out_of_memory
        is_smaller = decision.micro_batch_sequences < self.job.spec.micro_batch_sequences
        wait = RETRY_AFTER_STEPS << max(0, self.num_out_of_memory - 1) if is_smaller else None
        self.job = replace(self.job, micro_batch_sequences=decision.micro_batch_sequences, retry_after_steps=wait)
        note_micro_batch(self.job, decision.micro_batch_sequences)


def note_micro_batch(job: TrainJob, sequences: int) -> None:
    """Stores the workers' micro-batch size, so that after a failure it is known which size ran out of memory."""
    write_durably(job.work / NOTE_NAME, json.dumps({"micro_batch_sequences": sequences}))
    if job.copy is not None:
        job.copy.put(NOTE_NAME)


def noted_micro_batch(job: TrainJob) -> int:
    """The micro-batch size last stored; the spec's if there is none."""
    if job.copy is not None:
        job.copy.replace(NOTE_NAME)
    file = job.work / NOTE_NAME
    noted = json.loads(file.read_text()) if file.exists() else {}
    return int(noted.get("micro_batch_sequences", job.spec.micro_batch_sequences))
