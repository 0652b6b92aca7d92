"""Objectives of supervised tasks: classification, tagging, extractive question answering, sequence to sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from rayloom.score.batches import NO_LABEL, Batch, stacked
from rayloom.score.label_loss import LabelLoss
from rayloom.score.reward_loss import PairBatch, PairLoss, StepLoss, pair_batch
from rayloom.score.task_batches import TaskBatch, target_of, task_batch
from rayloom.score.task_loss import TaskLoss
from rayloom.specs.training.tasks import (
    QuestionAnswering,
    RelationExtraction,
    RewardScoring,
    SequenceToSequence,
    Task,
    TextClassification,
    TokenClassification,
)
from rayloom.text.conversations.preference_rows import PreferenceRows
from rayloom.text.conversations.step_rows import StepRows
from rayloom.text.labelled.encoded_rows import TaskRows
from rayloom.train.objectives.objective import Draw

JudgedTask = TextClassification | RelationExtraction | TokenClassification | QuestionAnswering
"""Tasks whose models have a task head."""


@dataclass(frozen=True)
class TaskObjective:
    """The objective of a task with a head."""

    task: JudgedTask
    padding_token: int
    weights: tuple[float, ...] | None = None

    def rows(self, folder: Path) -> TaskRows:
        return TaskRows(folder)

    def batch(self, rows: Sequence[Any], draws: Sequence[Draw]) -> TaskBatch:  # noqa: ARG002
        return task_batch(rows, target_of(self.task), self.padding_token)

    def loss_of(self, model: nn.Module) -> TaskLoss:
        return TaskLoss(model, target_of(self.task), self.task.label_smoothing, self.weights)


@dataclass(frozen=True)
class WrittenText:
    """Sequence to sequence: predicts every target token from the source text and the target tokens before it."""

    start_token: int
    """The decoder's start token, which is also the padding."""

    def rows(self, folder: Path) -> TaskRows:
        return TaskRows(folder)

    def batch(self, rows: Sequence[Any], draws: Sequence[Draw]) -> Batch:  # noqa: ARG002
        targets = [row.targets for row in rows]
        read = [np.concatenate([[self.start_token], target[:-1]]) for target in targets]
        return Batch(
            tokens=stacked([row.tokens for row in rows], self.start_token),
            positions=stacked([np.arange(len(row.tokens)) for row in rows], 0),
            labels=stacked(targets, NO_LABEL),
            num_tokens=sum(len(row.tokens) + len(row.targets) for row in rows),
            decoder_tokens=stacked(read, self.start_token),
            decoder_positions=stacked([np.arange(len(row)) for row in read], 0),
        )

    def loss_of(self, model: nn.Module) -> LabelLoss:
        return LabelLoss(model)


@dataclass(frozen=True)
class PairedAnswers:
    """A reward model: the better answer of each pair gets the larger number."""

    padding_token: int
    sequence_length_tokens: int

    def rows(self, folder: Path) -> PreferenceRows:
        return PreferenceRows(folder, self.sequence_length_tokens)

    def batch(self, rows: Sequence[Any], draws: Sequence[Draw]) -> PairBatch:  # noqa: ARG002
        return pair_batch(rows, self.padding_token)

    def loss_of(self, model: nn.Module) -> PairLoss:
        return PairLoss(model)


@dataclass(frozen=True)
class JudgedSteps:
    """A process reward: whether each step of an answer is right."""

    padding_token: int

    def rows(self, folder: Path) -> StepRows:
        return StepRows(folder)

    def batch(self, rows: Sequence[Any], draws: Sequence[Draw]) -> TaskBatch:  # noqa: ARG002
        return task_batch(rows, "tags", self.padding_token)

    def loss_of(self, model: nn.Module) -> StepLoss:
        return StepLoss(model)


def class_weights(task: Task, counts: Mapping[str, int]) -> tuple[float, ...] | None:
    """One weight for each label, or None. `counts`: how often each label occurs among the training targets.

    balanced: n / (K · n_c), so that all classes have the same total weight (King & Zeng 2001). A class that never
    occurs gets 1.
    """
    if isinstance(task, QuestionAnswering | SequenceToSequence | RewardScoring) or task.class_weights is None:
        return None
    wanted = task.class_weights
    if wanted != "balanced":
        return tuple(wanted.get(label, 1.0) for label in task.labels)
    present = [counts.get(label, 0) for label in task.labels]
    total, num_present = sum(present), sum(count > 0 for count in present)
    return tuple(total / (num_present * count) if count else 1.0 for count in present)


def objective_of_task(
    task: Task, train: Path, tokenizer: Path, sequence_length_tokens: int
) -> TaskObjective | WrittenText | PairedAnswers | JudgedSteps:
    """The objective of a task. `train`: folder of the rows for class weights. `tokenizer`: folder of the tokenizer."""
    from rayloom.pretrained import AutoTokenizer

    padding = AutoTokenizer.from_pretrained(tokenizer).pad_token_id
    if isinstance(task, SequenceToSequence):
        return WrittenText(int(padding or 0))
    if isinstance(task, RewardScoring) and task.step_separator is not None:
        return JudgedSteps(int(padding or 0))
    if isinstance(task, RewardScoring):
        return PairedAnswers(int(padding or 0), sequence_length_tokens)
    weights = None
    if not isinstance(task, QuestionAnswering) and task.class_weights is not None:
        weights = class_weights(task, label_counts(task, TaskRows(train)))
    return TaskObjective(task, int(padding or 0), weights)


def label_counts(task: Task, rows: TaskRows) -> dict[str, int]:
    """How often each label occurs among the rows' targets."""
    labels: tuple[str, ...] = getattr(task, "labels", ())
    counts = np.zeros(len(labels), np.int64)
    is_multiple = target_of(task) == "labels"
    for index in range(len(rows)):
        targets = rows.row(index).targets
        counts += targets if is_multiple else np.bincount(targets[targets >= 0], minlength=len(labels))
    return dict(zip(labels, counts.tolist(), strict=True))
