"""Where a policy's batches come from: answers that engines write with the newest weights, and rewards judge.

A round is all that is written with the same weights: the answers of one step, or of `updates_per_rollout` steps. Its
file is there before it is trained on, so that a resumed run goes on with the very same answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from rayloom.errors import QualityError
from rayloom.models.adapters import without_adapter
from rayloom.score.document_attention import use_documents
from rayloom.score.policy_loss import PolicyBatch, without_critic
from rayloom.specs.training.adapters import NoAdapter
from rayloom.specs.training.policies import Policy
from rayloom.train.engines.engine import Engine
from rayloom.train.job import TrainJob
from rayloom.train.loop.batch_feed import RunRows
from rayloom.train.loop.heldout_loss import HeldoutMeasure
from rayloom.train.loop.run_log import RunLog
from rayloom.train.objectives.objective import StoredRows
from rayloom.train.objectives.policy import Piece, PolicyObjective
from rayloom.train.precision import DTYPES, computing_precision
from rayloom.train.process_group import Group
from rayloom.train.rollouts.answers import PolicyAnswer, Round, RoundFiles, Values
from rayloom.train.rollouts.asking import Asker, StepPrompt
from rayloom.train.rollouts.handover import files_of
from rayloom.train.rollouts.measures import heldout_measure, hopeless, measures_of, plain, token_measures
from rayloom.train.rollouts.turns import PendingDialogues
from rayloom.train.weights.model import from_base


class PolicySource:
    """A run's source of answers. All workers call its methods together; the first one has the asker."""

    def __init__(
        self,
        job: TrainJob,
        group: Group,
        engine: Engine,
        rows: RunRows,
        asker: Asker | None,
        log: RunLog,
    ) -> None:
        policy = job.spec.policy
        assert policy is not None and isinstance(rows.objective, PolicyObjective)
        self.job, self.group, self.engine, self.rows, self.asker = job, group, engine, rows, asker
        self.policy: Policy = policy
        self.objective = rows.objective
        self._log, self._files = log, RoundFiles(job.work, job.copy)
        self._reference = None if policy.kl is None else reference_of(job, group.device)
        self._round: tuple[int, Round] | None = None
        self._ahead: tuple[int, list[StepPrompt], PendingDialogues, dict[str, float]] | None = None
        self._sleeps = job.spec.rollouts is not None and job.spec.rollouts.sleeps
        self._loaded, self._handover_seconds = -1, 0.0

    # -- batches ---------------------------------------------------------------------------------------------------

    def batches(self, step: int, micro_batch_sequences: int) -> list[PolicyBatch]:
        """This worker's micro-batches of a step, from answers that are written now or were before."""
        number = step // self.policy.updates_per_rollout
        if self._round is None or self._round[0] != number:
            found = self._found(number, step)
            if found.answers[0].advantages is None:
                self._compute(found.answers, micro_batch_sequences)
                if self.group.is_first and self.policy.updates_per_rollout > 1:
                    # A run that resumes inside the round has other weights than those that this was computed with.
                    self._files.write(number, found)
            self._round = number, found
        answers = self._round[1].of_step(step)
        taught = self.objective.taught(answers)
        batches = self._shared(self.objective.pieces(taught, micro_batch_sequences, self.engine.model.model))
        if self.group.is_first:
            # The step's mean is over all of its answers, also over those that have no gradient and are not computed.
            left_out = sum(map(self.objective.counted, answers)) - sum(map(self.objective.counted, taught))
            batches[0] = replace(batches[0], num_labels=batches[0].num_labels + left_out)
        return batches

    def _shared(self, made: Sequence[Sequence[Piece]]) -> list[PolicyBatch]:
        """This worker's part of the micro-batches; all workers get equally many."""
        own = [self.objective.batch(pieces) for pieces in made[self.group.rank :: self.group.num_workers]]
        missing = -(-len(made) // self.group.num_workers) - len(own)
        return own + [self.objective.batch(made[0]).without_labels()] * missing

    def settle(self) -> None:
        """Waits for answers that are being written ahead, and keeps them: a run that resumes from a checkpoint does
        not have the weights any more that write them."""
        if self._ahead is not None and self.asker is not None:
            number, questions, pending, facts = self._ahead
            self._ahead = None
            self._files.write(number, self.asker.finish(questions, pending, number, facts, self._other))

    def measured(self, rows: StoredRows, step: int) -> HeldoutMeasure:
        """The mean reward of the likeliest answers to held-out prompts."""
        self.settle()  # engines have one set of weights at a time
        self._hand_over(step)
        answers = None
        if self.asker is not None:
            answers = self.asker.likeliest([rows.row(index) for index in range(len(rows))])
            self._rest()
        measure: HeldoutMeasure = self.group.from_first(None if answers is None else heldout_measure(answers))
        return measure

    def token_measures(self) -> dict[str, float]:
        """What the loss saw of this step's tokens, over all workers. Raises QualityError above policy.max_mismatch."""
        seen, self.engine.model.seen = self.engine.model.seen, []
        found = token_measures([part for of_worker in self.group.gathered(plain(seen)) for part in of_worker])
        limit = self.policy.max_mismatch
        if limit is not None and found.get("mismatch", 0.0) > limit:
            what = (
                f"Engine and trainer disagree: the mean of |log p by the engine − log p by the trainer| is "
                f"{found['mismatch']:.3g} (99th percentile {found['mismatch_p99']:.3g}), over policy.max_mismatch"
            )
            fix = "Compute both in one precision, set policy.importance_limit: 2, or raise policy.max_mismatch."
            raise QualityError(what, where=f"{limit:g}", fix=fix)
        return found

    # -- rounds ----------------------------------------------------------------------------------------------------

    def _found(self, number: int, step: int) -> Round:
        """The round: from its file, or written now. Begins to write the next one where staleness allows."""
        if self._ahead is not None and self._ahead[0] != number:
            self._ahead = None  # the run went back to a checkpoint
        self.settle()
        following = number + 1 if self.policy.staleness_steps and self._steps(number + 1) else None
        is_missing, is_next_missing = self.group.from_first(
            (self._is_missing(number), following is not None and self._is_missing(following))
        )
        facts = self._hand_over(step) if is_missing or is_next_missing else {}
        found: Round | None = None
        if self.asker is not None:
            if is_missing:
                questions = self._questions(number)
                pending = self.asker.begin(questions, number)
                self._files.write(number, self.asker.finish(questions, pending, number, facts, self._other))
                self._rest()
            found = self._files.read(number)
            if following is not None and is_next_missing:
                questions = self._questions(following)
                self._ahead = following, questions, self.asker.begin(questions, following), facts
        found = self.group.from_first(found)
        assert isinstance(found, Round)
        if self.asker is not None and step == self._steps(number).start:
            handover, self._handover_seconds = round(self._handover_seconds, 5), 0.0
            measures = measures_of(found, self.job.spec)
            self._log.add("rollout", step + 1, version=found.version, handover_seconds=handover, **measures)
            problem = hopeless(found.answers, self.policy, is_first=number == 0)
            if problem is not None:
                raise QualityError(problem[0], where=str(self._files.file(number)), fix=problem[1])
        return found

    def _is_missing(self, number: int) -> bool:
        return self.asker is not None and not self._files.file(number).exists()

    def forget_after(self, step: int) -> None:
        """Removes rounds that a run which resumes at this step writes again: their weights may have been others."""
        self._round, self._ahead, self._loaded = None, None, -1
        end = -(-step // self.policy.updates_per_rollout) + self.policy.staleness_steps
        if self.asker is not None:
            self._files.fetch()
            self._files.forget(lambda number: number < end)

    def forget_before(self, step: int) -> None:
        """Removes rounds that no checkpoint from this step on needs."""
        if self.asker is not None:
            self._files.forget(lambda number: number >= step // self.policy.updates_per_rollout)

    def _steps(self, number: int) -> range:
        begin = number * self.policy.updates_per_rollout
        return range(begin, min(begin + self.policy.updates_per_rollout, self.rows.num_steps))

    def _questions(self, number: int) -> list[StepPrompt]:
        places = [(step, place) for step in self._steps(number) for place in self.rows.of_step(step)]
        return [StepPrompt(step, place, self.rows.shards[place[0]].row(place[1])) for step, place in places]

    def _other(self, question: StepPrompt, number: int, attempt: int) -> StepPrompt:
        """Another prompt in a question's place, drawn by seed, step, place and attempt."""
        shard = self.rows.shards[question.place[0]]
        random = np.random.default_rng([self.rows.seed, question.step, number, attempt])
        row = int(random.integers(len(shard)))
        return replace(question, place=(question.place[0], row), row=shard.row(row))

    def _hand_over(self, step: int) -> dict[str, float]:
        """Gives the engines the weights after `step` steps, unless they have them."""
        started = time.perf_counter()
        if self._sleeps:
            if self.group.device.type == "cuda":
                torch.cuda.empty_cache()
            self.group.agreed(0)  # all workers have given back what they do not hold
            if self.asker is not None:
                self.asker.writers.wake()
        if self._loaded != step:
            weights = self.engine.whole_weights()
            if self.asker is not None and weights is not None:
                files = files_of(self.job.spec, self.engine.model.model, without_critic(weights))
                self.asker.writers.load(step, files)
            self._loaded = step
            self._handover_seconds += time.perf_counter() - started
        return {"version": float(step)}

    def _rest(self) -> None:
        """Ends the turn of engines on the trainer's GPUs."""
        if self._sleeps and self.asker is not None:
            self.asker.writers.sleep()

    # -- what the trainer computes of answers before it trains on them ---------------------------------------------

    @torch.no_grad()
    def _compute(self, answers: list[PolicyAnswer], micro_batch_sequences: int) -> None:
        """Sets old and reference log-probabilities and values where the method needs them, then advantages."""
        kl = self.policy.kl
        is_late = self.policy.updates_per_rollout > 1 or self.policy.staleness_steps > 0
        needs_old = self.policy.needs_values or is_late or (kl is not None and kl.added_to == "reward")
        if needs_old or kl is not None:
            made = self.objective.pieces(answers, micro_batch_sequences, self.engine.model.model)
            own = [self._views(batch, needs_old, kl is not None) for batch in self._shared(made)]
            every = self.group.gathered(own)
            for number, pieces in enumerate(made):
                views = every[number % self.group.num_workers][number // self.group.num_workers]
                _set(views, [answer for piece in pieces for answer in piece])
        self.objective.set_advantages(answers)

    def _views(self, batch: PolicyBatch, needs_old: bool, needs_reference: bool) -> dict[str, Values]:
        loss, here = self.engine.model, batch.to(self.group.device)
        found: dict[str, Values] = {}
        if needs_old:
            view = loss.view(here)
            found["old_log_p"] = view.log_p.double().cpu().numpy()
            if view.values is not None:
                found["values"] = view.values.double().cpu().numpy()
        if needs_reference:
            with self._as_reference():
                found["reference_log_p"] = loss.view(here).log_p.double().cpu().numpy()
        return found

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        """The loss module looks through the reference's eyes."""
        loss = self.engine.model
        if self._reference is None:
            with without_adapter(loss.model):
                yield
            return
        own, loss.model = loss.model, self._reference
        try:
            yield
        finally:
            loss.model = own


def reference_of(job: TrainJob, device: torch.device) -> nn.Module | None:
    """The base as it was, frozen, for whole weights; None where an adapter is taken off instead."""
    if not isinstance(job.spec.adapter, NoAdapter) or job.base is None:
        return None
    dtype = DTYPES[computing_precision(job.spec, device.type == "cuda")]
    model = from_base(job.base, None, dtype).to(device=device, dtype=dtype)
    use_documents(model)
    return model.eval().requires_grad_(False)


def _set(views: dict[str, Any], answers: Sequence[PolicyAnswer]) -> None:
    ends = np.cumsum([answer.num_written for answer in answers])[:-1]
    for name, values in views.items():
        for answer, own in zip(answers, np.split(values, ends), strict=True):
            setattr(answer, name, own)


class PolicyFeed:
    """Gives each step's micro-batches in order; `next` returns when the answers are there."""

    def __init__(self, source: PolicySource, first_step: int, micro_batch_sequences: int) -> None:
        self._source, self._step, self._at_once = source, first_step, micro_batch_sequences
        self.wait_seconds = 0.0
        """Seconds that training has waited for answers, and computed on them before it could train."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def next(self) -> list[PolicyBatch]:
        started = time.perf_counter()
        batches = self._source.batches(self._step, self._at_once)
        self._step += 1
        self.wait_seconds += time.perf_counter() - started
        return batches

    def noted(self) -> dict[str, float]:
        """What the loss saw of the step's tokens. Raises QualityError where engine and trainer disagree too much."""
        return self._source.token_measures()
