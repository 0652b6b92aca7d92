"""One worker's run: its model, engine, data, checkpoints and state, and how they are built and restored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.random import SeedSequence

from rayloom.models.lora_sequence import put_over, start_from
from rayloom.score.document_attention import use_documents
from rayloom.score.parallel.axis import ALONE, Axis
from rayloom.specs.train import TrainSpec
from rayloom.train.engines.engine import Engine, engine_for
from rayloom.train.failures import note_micro_batch
from rayloom.train.job import TrainJob
from rayloom.train.loop import checkpoints as stored
from rayloom.train.loop.batch_feed import RunRows
from rayloom.train.loop.checkpoints import BestWeights, Checkpoints
from rayloom.train.loop.run_log import RunLog, Tell
from rayloom.train.objectives.denoising import pretraining_objective
from rayloom.train.objectives.objective import Objective, StoredRows
from rayloom.train.objectives.policy import PolicyObjective
from rayloom.train.objectives.preference import PreferenceObjective, add_reference
from rayloom.train.objectives.prompted import PromptedObjective, keep_prompt
from rayloom.train.objectives.recorded import RecordedTeacher, record
from rayloom.train.objectives.task import objective_of_task
from rayloom.train.process_group import Group
from rayloom.train.rollouts.asking import Asker
from rayloom.train.rollouts.source import PolicySource
from rayloom.train.sizes.model_size import ModelSize, size_of_model, with_teachers_size
from rayloom.train.sizes.peaks import use_tensor_cores
from rayloom.train.state import TrainState
from rayloom.train.streaming.streamed_rows import StreamedRows, is_streamed
from rayloom.train.weights.layers import prepare_layers
from rayloom.train.weights.layout import check_layout
from rayloom.train.weights.model import build_model, save_model, sharded_model
from rayloom.train.weights.retention import with_retention
from rayloom.train.weights.sharded import ShardedWeights
from rayloom.train.weights.stages import as_whole
from rayloom.train.weights.teacher import with_teacher

ASKING_SECONDS = 5.0
"""Between two checks for a preemption notice; clouds give notice at least 30 seconds before."""


@dataclass
class Run:
    """Everything that the loop needs on one worker. Methods that write must be called by all workers."""

    job: TrainJob
    group: Group
    model: torch.nn.Module
    engine: Engine
    rows: RunRows
    heldout: dict[str, StoredRows]
    checkpoints: Checkpoints
    best: BestWeights
    log: RunLog
    size: ModelSize
    """Size of the model, measured before its weights are sharded."""
    micro_batch_sequences: int
    """Sequences in a micro-batch. It changes only speed, memory and rounding, not the result."""
    should_stop: Callable[[], bool]
    has_notice: Callable[[], bool]
    state: TrainState = field(default_factory=TrainState)
    source: PolicySource | None = None
    """Where a policy's answers come from."""
    retry_at_step: int | None = None
    """Step at which the spec's micro-batch size is tried again."""
    _saved_at: float = field(default_factory=time.monotonic)
    _asked_at: float = field(default_factory=time.monotonic)
    _is_notice_taken: bool = False

    @property
    def is_finished(self) -> bool:
        stopping = self.job.spec.early_stopping
        enough = stopping is not None and self.state.evaluations_without_improvement >= stopping.patience
        return enough or self.state.step >= self.rows.num_steps

    @property
    def is_measurement_due(self) -> bool:
        every = self.job.spec.evaluate_every_steps
        is_end_of_stopping = self.job.spec.early_stopping is not None and self.state.step == self.rows.num_steps
        return is_end_of_stopping or (every is not None and self.state.step % every == 0)

    @property
    def is_checkpoint_step(self) -> bool:
        return self.state.step % self.job.spec.checkpoints.every_steps == 0

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether one is due by the first worker's clock; the others learn it in `Group.agreed`."""
        minutes = self.job.spec.checkpoints.every_minutes
        return self.group.is_first and minutes is not None and time.monotonic() - self._saved_at > minutes * 60

    @property
    def is_retry_due(self) -> bool:
        return self.retry_at_step is not None and self.state.step >= self.retry_at_step

    @property
    def is_asking_due(self) -> bool:
        """Whether it is time to check for a preemption notice, which all workers do together."""
        return self.group.is_first and time.monotonic() - self._asked_at > ASKING_SECONDS

    def is_new_notice(self) -> bool:
        """Whether there is a preemption notice now and there was none at the last check."""
        self._asked_at = time.monotonic()
        has_notice = self.has_notice()
        is_new, self._is_notice_taken = has_notice and not self._is_notice_taken, has_notice
        return is_new

    def seed_micro_batch(self, number: int) -> None:
        """Seeds torch from (seed, step, micro-batch), so that checkpoints need no random state."""
        place = number * self.group.copies.size + self.group.copies.rank
        # The stages of a pipeline draw for other layers.
        stage = [self.group.pipeline.rank] if self.group.pipeline.rank else []
        words = SeedSequence([self.job.spec.seed, self.state.step, place, *stage]).generate_state(1)
        torch.manual_seed(int(words[0]))

    def save_checkpoint(self) -> None:
        self._saved_at = time.monotonic()
        if self.source is not None:
            self.source.settle()
        self.state.num_updates = self.engine.num_updates
        self.checkpoints.save(self.state, self.engine.fragments())

    def try_full_micro_batch(self) -> None:
        """Returns to the spec's micro-batch size, after a checkpoint in case memory runs out again."""
        if not self.is_checkpoint_step:
            self.save_checkpoint()
        self.checkpoints.finish()
        self.micro_batch_sequences, self.retry_at_step = self.job.spec.micro_batch_sequences, None
        if self.group.is_first:
            note_micro_batch(self.job, self.micro_batch_sequences)
        self.log.say(f"step {self.state.step}: trying micro_batch_sequences {self.micro_batch_sequences} again")

    def settle_checkpoint(self, num_failed: int) -> None:
        self.checkpoints.settle(num_failed)
        if self.group.is_first:
            states = self.checkpoints.states()
            self.best.prune({self.state.best_step, *(state.best_step for state in states)})
            if self.source is not None and states:
                self.source.forget_before(min(state.step for state in states))

    def save_best(self) -> None:
        weights = self.engine.whole_weights()
        if weights is not None:
            self.best.save(self.state.step, lambda out: self.save_result(weights, out))

    def save_result(self, weights: Mapping[str, torch.Tensor], out: Path) -> None:
        """Writes the model with these weights as a folder."""
        with as_whole(self.model):
            save_model(self.job.spec, self.model, weights, self.job.tokenizer, out)
        keep_prompt(self.job, out)

    def close(self) -> None:
        self.engine.close()
        self.rows.close()
        self.log.close()
        self.checkpoints.close()


def prepared(
    job: TrainJob,
    group: Group,
    tell: Tell,
    should_stop: Callable[[], bool],
    has_notice: Callable[[], bool],
    asker: Asker | None = None,
) -> Run:
    """The run, restored from its newest sound checkpoint, or at step 0."""
    spec = job.spec
    record(job, group, lambda text: _tell_text(tell, group, text))
    rows = rows_of(job, spec, group.context)
    objective = rows.objective
    heldout: dict[str, StoredRows] = {name: objective.rows(folder) for name, folder in job.heldout.items()}
    checkpoints = Checkpoints(
        job.checkpoints, spec.checkpoints.keep, group, lambda text: _tell_text(tell, group, text), job.copy
    )
    newest = checkpoints.newest_sound()
    model, loss, weights = engine_model(job, objective, group.device)
    size = with_teachers_size(size_of_model(model), spec, job.teacher)
    use_tensor_cores(group.device)
    engine = engine_for(spec, loss, group, weights)
    copy_of_first = job.copy if group.is_first else None
    if copy_of_first is not None:
        copy_of_first.replace(job.log.name)
    log = RunLog(job.log, -1 if newest is None else stored.step_of(newest), tell, group.is_first)
    best = BestWeights(job.best, copy_of_first)
    run = Run(
        job, group, model, engine, rows, heldout, checkpoints, best, log, size, job.micro_batch_sequences, should_stop,
        has_notice,
    )  # fmt: skip
    if spec.policy is not None:
        run.source = PolicySource(job, group, engine, rows, asker, log)
        if newest is None:
            run.source.forget_after(0)
    if newest is not None:
        go_to(run, newest)
        log.say(f"continuing from step {run.state.step} of {rows.num_steps}")
        log.add("resumed", run.state.step, num_workers=group.num_workers)
    elif spec.preference is not None and spec.preference.needs_reference:
        log.say("computing what the model thinks of all answers before training")
    if job.retry_after_steps is not None:
        run.retry_at_step = run.state.step + job.retry_after_steps
    if spec.preference is not None and spec.preference.needs_reference:
        for found in (*rows.shards, *heldout.values()):
            file = add_reference(found, engine.model, job.micro_batch_sequences, group)
            if copy_of_first is not None:
                rows_copy = job.rows or copy_of_first
                rows_copy.put(file.relative_to(rows_copy.folder).as_posix())
    return run


def objective_of(job: TrainJob, context: Axis = ALONE) -> Objective:
    """The objective of the job's spec. `context`: the workers among which rows are cut."""
    spec = job.spec
    if spec.prompt is not None and job.base is not None:
        return PromptedObjective.of(spec.prompt, job.base, job.train[0])
    if spec.headed_task is not None:
        return objective_of_task(spec.headed_task, job.train[0], job.tokenizer, spec.sequence_length_tokens)
    if spec.preference is not None:
        return PreferenceObjective(spec.preference, spec.sequence_length_tokens)
    if spec.policy is not None and spec.rollouts is not None:
        return PolicyObjective(spec.policy, spec.rollouts)
    if job.records:
        return RecordedTeacher(spec.sequence_length_tokens, job.records)
    return pretraining_objective(spec, job.tokenizer, context)


def rows_of(job: TrainJob, spec: TrainSpec, context: Axis = ALONE) -> RunRows:
    """The job's training rows, with the batch size of `spec`, of which each worker of `context` has some positions."""
    objective = objective_of(job, context)
    return RunRows(
        objective=objective,
        shards=[
            StreamedRows(folder, spec.sequence_length_tokens) if is_streamed(folder) else objective.rows(folder)
            for folder in job.train
        ],
        shares=job.shares,
        seed=spec.seed,
        num_rows=job.num_rows,
        global_batch_sequences=spec.rows_per_step,
        lane_rows=spec.micro_batch_sequences,
    )


def engine_model(
    job: TrainJob, objective: Objective, device: torch.device
) -> tuple[torch.nn.Module, torch.nn.Module, ShardedWeights | None]:
    """The model in training mode, and the loss module around it, which the engine takes.

    Where workers hold parts of the weights, the model has none if the engine can give each worker its part: the third
    result.
    """
    model, weights = None, None
    if job.spec.sharding.cuts_weights and job.start is None:
        model, weights = sharded_model(job.spec, job.base, job.tokenizer)
    if model is None or weights is None:
        model = build_model(job.spec, job.base, job.tokenizer, device)
    if job.start is not None:
        model = start_from(model, job.start)
    if job.earlier is not None:
        model = put_over(model, job.earlier)
    prepare_layers(model, job.spec, device)
    # On a CPU, attention by documents would recompile for each batch's document lengths.
    if not (job.spec.compile and device.type == "cpu"):
        use_documents(model)
    config: Any = model.config
    check_layout(job.spec, config)
    model.train()
    loss = with_teacher(objective.loss_of(model), job.spec, job.teacher, device)
    return model, with_retention(loss, job.spec, job.base), weights


def go_to(run: Run, checkpoint: Path) -> None:
    """Restores weights, optimiser and state from a checkpoint."""
    run.state, reader = stored.load(checkpoint)
    with reader:
        run.engine.restore(reader, run.state.num_updates)
    if run.source is not None:
        run.source.forget_after(run.state.step)


def _tell_text(tell: Tell, group: Group, text: str) -> None:
    if group.is_first:
        tell({"event": "said", "text": text})
