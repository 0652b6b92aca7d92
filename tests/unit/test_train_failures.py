"""Why workers failed, and what is decided about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.training_jobs import small_job

from rayloom.errors import QualityError, ResourceError
from rayloom.specs.training.endurance import Faults
from rayloom.train.failures import (
    RETRY_AFTER_STEPS,
    Attempts,
    Cause,
    Failure,
    Restart,
    Stop,
    after_failure,
    first_cause,
    note_micro_batch,
    noted_micro_batch,
)


class ActorDiedError(Exception):
    """Named like Ray's."""


class WorkerHealthCheckFailedError(Exception):
    """Shaped like Ray Train's: the reason hangs on it."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("a worker does not answer")
        self.health_check_failure = failure


class ConnectTimeoutError(Exception):
    """Named like botocore's."""


GLOO = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")


@pytest.mark.parametrize(
    ("errors", "cause"),
    [
        ([GLOO, QualityError("no usable loss")], Cause.OURS),
        ([RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"), GLOO], Cause.OUT_OF_MEMORY),
        ([type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried …")], Cause.OUT_OF_MEMORY),
        ([GLOO, WorkerHealthCheckFailedError(ActorDiedError("exit code 9"))], Cause.DEATH),
        ([WorkerHealthCheckFailedError(type("OutOfMemoryError", (Exception,), {})("killed"))], Cause.OUT_OF_MEMORY),
        ([GLOO, ConnectTimeoutError("Connect timeout on endpoint URL")], Cause.STORE),
        ([GLOO, GLOO], Cause.DEATH),
        ([GLOO, KeyError("weight")], Cause.DEFECT),
    ],
)
def test_one_workers_trouble_is_told_from_what_it_does_to_the_others(errors: list[Exception], cause: Cause) -> None:
    assert first_cause(errors).cause is cause


def test_the_own_error_is_the_one_that_is_raised() -> None:
    own = QualityError("no usable loss")
    decision = after_failure(Faults(), first_cause([GLOO, own]), 4, 0)
    assert isinstance(decision, Stop)
    assert decision.error is own


def test_out_of_memory_halves_the_micro_batch_until_nothing_is_left_to_halve() -> None:
    failure = Failure(Cause.OUT_OF_MEMORY, MemoryError())
    first = after_failure(Faults(), failure, 6, 0)
    assert isinstance(first, Restart)
    assert (first.micro_batch_sequences, "6 → 3" in first.why) == (3, True)
    last = after_failure(Faults(), failure, 1, 2)
    assert isinstance(last, Stop)
    assert isinstance(last.error, ResourceError)
    asked_to_stop = after_failure(Faults(out_of_memory="stop"), failure, 6, 0)
    assert isinstance(asked_to_stop, Stop)
    assert "micro_batch_sequences 6" in str(asked_to_stop.error)


def test_dead_workers_are_started_again_as_often_as_the_policy_says() -> None:
    failure = Failure(Cause.DEATH, ActorDiedError())
    decisions = [after_failure(Faults(max_restarts=2), failure, 4, restarts) for restarts in range(3)]
    assert [type(decision) for decision in decisions] == [Restart, Restart, Stop]
    assert isinstance(decisions[2], Stop)
    assert "3 times in all" in str(decisions[2].error)


def test_a_store_that_does_not_answer_a_worker_is_tried_again_as_often_and_then_named() -> None:
    """A node whose network is gone for half a minute ends no run."""
    failure = Failure(Cause.STORE, ConnectTimeoutError("Connect timeout on endpoint URL"))
    decisions = [after_failure(Faults(max_restarts=1), failure, 4, restarts) for restarts in range(2)]
    assert [type(decision) for decision in decisions] == [Restart, Stop]
    assert isinstance(decisions[1], Stop)
    assert "The object store does not answer: Connect timeout" in str(decisions[1].error)


def test_a_defect_is_raised_as_it_is() -> None:
    error = KeyError("weight")
    decision = after_failure(Faults(), Failure(Cause.DEFECT, error), 4, 0)
    assert isinstance(decision, Stop)
    assert decision.error is error


def test_a_halved_micro_batch_is_not_kept_for_ever(tmp_path: Path) -> None:
    """Memory may only have been taken by another process for a moment; half a micro-batch costs half the speed."""
    job = small_job(tmp_path, micro_batch_sequences=4, global_batch_tokens=8 * 16)
    attempts = Attempts.first(job)
    assert (attempts.job.micro_batch_sequences, attempts.job.retry_after_steps) == (4, None)
    attempts.restart(Restart(2, "out of memory"), is_out_of_memory=True)
    assert (attempts.job.micro_batch_sequences, attempts.job.retry_after_steps) == (2, RETRY_AFTER_STEPS)
    note_micro_batch(attempts.job, 4)  # as the workers do when they try it again
    assert noted_micro_batch(job) == 4
    attempts.restart(Restart(2, "out of memory again"), is_out_of_memory=True)
    assert (attempts.job.micro_batch_sequences, attempts.job.retry_after_steps) == (2, 2 * RETRY_AFTER_STEPS)
    attempts.restart(Restart(4, "a worker died"), is_out_of_memory=False)
    assert attempts.job.retry_after_steps is None
    assert attempts.num_restarts == 3
    # The next run of the same command begins with what the spec says, whatever the one before it went on with.
    attempts.restart(Restart(2, "out of memory"), is_out_of_memory=True)
    assert Attempts.first(job).job.micro_batch_sequences == 4
