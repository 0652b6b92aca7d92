"""The training loop, for all models, engines and numbers of workers, with or without Ray.

Each worker computes its own micro-batches of a step. The loss is summed over labels and workers and divided by the
number of labels in the global batch, so it does not depend on how rows are distributed over workers.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from rayloom.artifacts.durable import write_durably
from rayloom.artifacts.manifest import file_entries
from rayloom.errors import InterruptedJobError, QualityError
from rayloom.train.job import TrainJob
from rayloom.train.loop import policies
from rayloom.train.loop.batch_feed import Feed
from rayloom.train.loop.heldout_loss import HeldoutMeasure, heldout_loss
from rayloom.train.loop.policies import is_improvement, learning_rate_share
from rayloom.train.loop.run_log import Tell
from rayloom.train.loop.run_state import Run, go_to, prepared
from rayloom.train.objectives.objective import StoredRows, TrainBatch
from rayloom.train.precision import DTYPES, after_step, computing_precision, loss_scale
from rayloom.train.process_group import Group, arranged
from rayloom.train.rollouts.asking import Asker
from rayloom.train.rollouts.source import PolicyFeed
from rayloom.train.sizes.estimates import flops_per_token
from rayloom.train.sizes.peaks import data_sheet_peak, matrix_peak, peak_memory_bytes
from rayloom.train.weights.retention import keep_fisher


def train(
    job: TrainJob,
    group: Group,
    tell: Tell,
    should_stop: Callable[[], bool] = lambda: False,
    has_notice: Callable[[], bool] = lambda: False,
    asker: Asker | None = None,
    began: float | None = None,
) -> None:
    """Trains from the newest sound checkpoint, or from the start, and writes the finished model to `job.out`.

    Events go to `job.log` and `tell`. `has_notice`: whether a node is about to be preempted; all workers ask together
    every few seconds, and if so write a checkpoint. `asker`: what the first worker needs for a policy's answers.
    `began`: when this worker's start began, by `time.perf_counter`; None: now.
    Raises InterruptedJobError, after a checkpoint, if `should_stop` is true on any worker, and QualityError if the
    policy for bad steps decides to stop.
    """
    began = time.perf_counter() if began is None else began
    with (
        arranged(group, job.spec.sharding) as placed,
        closing(prepared(job, placed, tell, should_stop, has_notice, asker)) as run,
    ):
        _note_device(run, began)
        if run.state.step == 0:
            _measure(run)
        while not run.is_finished:
            # Going back to a checkpoint, or changing the micro-batch size, needs a new feed from the current step.
            with _feed(run) as feed:
                while not run.is_finished and _step(run, feed):
                    pass
        run.checkpoints.finish()
        _publish(run)


def _feed(run: Run) -> Feed | PolicyFeed:
    step, at_once = run.state.step, run.micro_batch_sequences
    if run.source is not None:
        return PolicyFeed(run.source, step, at_once)
    return Feed(run.rows, step, at_once, run.group.rows)


def _note_device(run: Run, began: float) -> None:
    """Logs what the start took, and what utilisation is computed from: peak FLOP/s, as on the data sheet and measured,
    and FLOPs per token.
    """
    if run.group.is_first:
        spec, device = run.job.spec, run.group.device
        precision = computing_precision(spec, device.type == "cuda")
        if precision != spec.precision:
            run.log.say(
                f"this processor cannot multiply {spec.precision}: computing in {precision}, which is faster here"
            )
        run.log.add(
            "device",
            run.state.step,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu:{torch.get_num_threads()}",
            num_workers=run.group.num_workers,
            peak_flops=round(matrix_peak(device, DTYPES[precision])),
            data_sheet_flops=data_sheet_peak(device, DTYPES[precision]),
            flops_per_token=flops_per_token(run.size, spec.sequence_length_tokens, spec.objective_in_use),
            start_seconds=round(time.perf_counter() - began, 3),
        )


def _step(run: Run, feed: Feed | PolicyFeed) -> bool:
    """One training step. False if the feed is out of date: the step or the micro-batch size changed."""
    state, started, waited = run.state, time.perf_counter(), feed.wait_seconds
    batches = feed.next()
    agreed = _agreed(run, batches)
    state.step += 1
    state.tokens += agreed.num_tokens
    if state.step in state.skipped_steps:
        return True
    share = learning_rate_share(run.job.spec.schedule, state.step - 1, run.rows.num_steps)
    learning_rate = run.job.spec.peak_learning_rate * share * state.learning_rate_factor
    precision = run.job.spec.precision
    run.engine.loss_scale = loss_scale(precision, state)
    limit = policies.loss_limit(run.job.spec.faults, state)
    loss = run.engine.accumulate(batches, agreed.num_labels, limit, run.seed_micro_batch)
    noted = feed.noted()
    norm = run.engine.step(learning_rate)
    is_applied = math.isfinite(norm)
    is_loss_good = loss <= limit  # False if it is NaN
    if is_loss_good and after_step(precision, state, is_applied) and not is_applied:
        run.log.add("overflow", state.step, loss=loss, loss_scale=run.engine.loss_scale)
        return True
    if not is_applied:
        return _after_bad_step(run, loss)
    policies.remember_loss(state, loss)
    run.log.add(
        "step",
        state.step,
        loss=loss,
        learning_rate=learning_rate,
        gradient_norm=norm,
        tokens=agreed.num_tokens,
        labels=agreed.num_labels,
        seconds=round(time.perf_counter() - started, 5),
        data_wait_seconds=round(feed.wait_seconds - waited, 5),
        **noted,
    )
    _between_steps(run, agreed)
    if run.is_retry_due:
        run.try_full_micro_batch()
        return False
    return True


@dataclass(frozen=True)
class _Agreed:
    """Values that all workers share at a step: sums over their batches, and whether any of them asks for something."""

    num_labels: int
    num_tokens: int
    is_stopping: bool
    is_checkpoint_due: bool
    has_new_notice: bool


def _agreed(run: Run, batches: Sequence[TrainBatch]) -> _Agreed:
    checkpoints = run.checkpoints
    sums = run.group.agreed(
        run.group.once(sum(batch.num_labels for batch in batches)),
        run.group.once(sum(batch.num_tokens for batch in batches)),
        run.should_stop(),
        run.is_checkpoint_due,
        run.is_asking_due,
        checkpoints.is_written,
        checkpoints.has_failed,
    )
    num_labels, num_tokens, stopping, due, asking, written, failed = (int(value) for value in sums)
    if written == run.group.num_workers:
        run.settle_checkpoint(failed)
    has_new_notice = asking > 0 and run.is_new_notice()
    return _Agreed(num_labels, num_tokens, stopping > 0, due > 0, has_new_notice)


def _between_steps(run: Run, agreed: _Agreed) -> None:
    """Held-out measurements and checkpoints that are due after a step."""
    if run.is_measurement_due:
        _measure(run)
    if agreed.is_checkpoint_due or agreed.is_stopping or agreed.has_new_notice or run.is_checkpoint_step:
        run.save_checkpoint()
    if agreed.has_new_notice:
        run.checkpoints.finish()
        run.log.say(f"a machine is about to leave; the checkpoint of step {run.state.step} is safe")
    if agreed.is_stopping:
        run.checkpoints.finish()
        fix = "Run the same command again; it continues there."
        raise InterruptedJobError(f"Training was asked to stop and did so after step {run.state.step}", fix=fix)


def _after_bad_step(run: Run, loss: float) -> bool:
    state, policy = run.state, run.job.spec.faults
    state.skipped_steps.append(state.step)
    run.checkpoints.finish()
    newest = run.checkpoints.newest_sound()
    decision = policies.after_bad_step(policy, state, newest is not None)
    rows = run.rows.of_step(state.step - 1)
    run.log.add("bad_step", state.step, loss=loss, decision=decision.name.lower(), rows=rows)
    run.log.say(f"step {state.step}: loss {loss:.4g}, or its gradient, is not usable; {decision.value}")
    if decision is policies.StepDecision.STOP:
        named = ", ".join(f"{source}:{row}" for source, row in rows[:8])
        what = f"{policy.max_skipped_steps + 1} steps in a row up to step {state.step} had no usable loss or gradient"
        fix = f"Look at these rows (source:row): {named}; or lower learning_rate, or set gradient_clip_norm."
        raise QualityError(what, where=f"loss {loss:.4g}", fix=fix)
    if decision is policies.StepDecision.GO_BACK and newest is not None:
        skipped, rollbacks = state.skipped_steps, state.rollbacks + 1
        go_to(run, newest)
        run.state.skipped_steps, run.state.rollbacks = skipped, rollbacks
        run.state.learning_rate_factor *= policy.rollback_learning_rate_factor
        run.log.say(f"continuing from step {run.state.step} at {run.state.learning_rate_factor:g} × the learning rate")
        return False
    return True


def _measure(run: Run) -> None:
    """Logs held-out losses; with early stopping, saves the weights if they are the best so far."""
    run.model.eval()
    measured = {name: _measured(run, shards) for name, shards in run.heldout.items()}
    run.model.train()
    state, stopping = run.state, run.job.spec.early_stopping
    for name, measure in measured.items():
        run.log.add("heldout", state.step, name=name, **measure.as_event())
    if stopping is None or state.step == 0:
        return
    deciding = next(iter(measured.values()))
    if is_improvement(stopping, state, deciding):
        state.best_loss, state.best_score, state.best_step = deciding.loss, deciding.score, state.step
        state.evaluations_without_improvement = 0
        run.save_best()
    else:
        state.evaluations_without_improvement += 1


def _measured(run: Run, rows: StoredRows) -> HeldoutMeasure:
    if run.source is not None:
        return run.source.measured(rows, run.state.step)
    return heldout_loss(run.engine, run.rows.objective, rows, run.micro_batch_sequences, run.group)


def _publish(run: Run) -> None:
    """Writes the result: the best weights with early stopping, else the last ones."""
    state, job = run.state, run.job
    if job.spec.early_stopping is None:
        if not run.is_measurement_due:
            _measure(run)
        weights = run.engine.whole_weights()
        if weights is not None:
            run.save_result(weights, job.out)
    elif run.group.is_first and state.best_step is not None:
        shutil.copytree(run.best.path(state.best_step), job.out, dirs_exist_ok=True)
    if run.group.is_first:
        keep_fisher(job, run.rows.objective, run.rows.shards[0], run.group.device)
    run.log.add(
        "finished",
        state.step,
        tokens=state.tokens,
        updates=state.num_updates,
        skipped_steps=state.skipped_steps,
        rollbacks=state.rollbacks,
        best_step=state.best_step,
        peak_memory_bytes=peak_memory_bytes(run.group.device),
        checkpoint_stall_seconds=round(run.checkpoints.stall_seconds, 3),
    )
    if run.group.is_first:
        _hand_over(job)
    run.group.wait_for_all()


def _hand_over(job: TrainJob) -> None:
    """Marks the result as complete by writing `job.finished`: its files with sizes and digests."""
    entries = file_entries(job.out)
    if job.copy is not None:
        job.copy.put(job.out.relative_to(job.work).as_posix())
        job.copy.put(job.log.name)
    write_durably(job.finished, json.dumps([entry.model_dump() for entry in entries]))
    if job.copy is not None:
        job.copy.put(job.finished.name)
