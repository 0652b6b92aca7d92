"""Tasks with a head of their own as objectives: labels of texts, tags of tokens, ends of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from rayloom.score.task_batches import TaskBatch, target_of, task_batch
from rayloom.score.task_loss import TaskLoss
from rayloom.specs.tasks import QuestionAnswering, Task
from rayloom.text.task_rows import TaskRows
from rayloom.train.objective import Draw


@dataclass(frozen=True)
class TaskObjective:
    """What a task minimises."""

    task: Task
    padding_token: int
    weights: tuple[float, ...] | None = None

    def rows(self, folder: Path) -> TaskRows:
        return TaskRows(folder)

    def batch(self, rows: Sequence[Any], draws: Sequence[Draw]) -> TaskBatch:  # noqa: ARG002
        return task_batch(rows, target_of(self.task), self.padding_token)

    def loss_of(self, model: nn.Module) -> TaskLoss:
        return TaskLoss(model, target_of(self.task), self.task.label_smoothing, self.weights)


def class_weights(task: Task, counts: Mapping[str, int]) -> tuple[float, ...] | None:
    """One weight for each label. `counts`: how often each occurs among the targets to train on.

    balanced: n / (K · n_c), so that every class weighs the same in all (King & Zeng 2001); a class that never occurs
    weighs 1.
    """
    wanted = None if isinstance(task, QuestionAnswering) else task.class_weights
    if wanted is None or isinstance(task, QuestionAnswering):
        return None
    if wanted != "balanced":
        return tuple(wanted.get(label, 1.0) for label in task.labels)
    present = [counts.get(label, 0) for label in task.labels]
    total, num_present = sum(present), sum(count > 0 for count in present)
    return tuple(total / (num_present * count) if count else 1.0 for count in present)


def objective_of_task(task: Task, train: Path, tokenizer: Path) -> TaskObjective:
    """`train`: the folder of rows that class weights are counted in. `tokenizer`: the folder that has it."""
    from transformers import AutoTokenizer

    padding = AutoTokenizer.from_pretrained(tokenizer).pad_token_id
    weights = None
    if not isinstance(task, QuestionAnswering) and task.class_weights is not None:
        weights = class_weights(task, label_counts(task, TaskRows(train)))
    return TaskObjective(task, int(padding or 0), weights)


def label_counts(task: Task, rows: TaskRows) -> dict[str, int]:
    """How often each label occurs among the targets."""
    labels: tuple[str, ...] = getattr(task, "labels", ())
    found = np.zeros(len(labels), np.int64)
    is_multiple = target_of(task) == "labels"
    for index in range(len(rows)):
        targets = rows.row(index).targets
        found += targets if is_multiple else np.bincount(targets[targets >= 0], minlength=len(labels))
    return dict(zip(labels, found.tolist(), strict=True))
