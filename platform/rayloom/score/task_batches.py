"""Batches of a task's rows. Each row has one example, so a plain attention mask is enough.

Shapes: B rows, S positions (the longest row's length), K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from rayloom.score.batches import NO_LABEL, moved
from rayloom.specs.training.tasks import QuestionAnswering, Task, TextClassification, TokenClassification

Target = Literal["label", "labels", "tags", "answer"]
"""A row's targets: one label, 0 or 1 for each label, a tag for each token, or an answer's first and last token."""


class TaskRow(Protocol):
    """A row of a task, from any source."""

    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def segments(self) -> NDArray[np.int64]: ...
    @property
    def targets(self) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class TaskBatch:
    """Rows of a task as tensors."""

    tokens: torch.Tensor
    """(B, S) token ids."""
    mask: torch.Tensor
    """(B, S) 1 for tokens, 0 for padding."""
    segments: torch.Tensor
    """(B, S) 0 for the first text, 1 for the second."""
    targets: torch.Tensor
    """(B,) label, (B, K) labels, (B, S) tags or (B, 2) first and last token of an answer; NO_LABEL if there is none."""
    num_tokens: int
    """Without padding."""

    @property
    def num_labels(self) -> int:
        return int((self.targets != NO_LABEL).sum())

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu":
            return self
        return replace(self, **moved(self, device))

    def without_labels(self) -> Self:
        """The same shapes without labels: the same computation, with zero loss and zero gradients."""
        return replace(self, targets=torch.full_like(self.targets, NO_LABEL), num_tokens=0)


def task_batch(rows: Sequence[TaskRow], target: Target, padding_token: int) -> TaskBatch:
    """The rows as one batch, padded at the end to the longest row."""
    length = max(len(row.tokens) for row in rows)
    tokens = np.full((len(rows), length), padding_token, np.int64)
    mask, segments = np.zeros_like(tokens), np.zeros_like(tokens)
    tags = np.full((len(rows), length), NO_LABEL, np.int64)
    for index, row in enumerate(rows):
        size = len(row.tokens)
        tokens[index, :size], segments[index, :size], mask[index, :size] = row.tokens, row.segments, 1
        if target == "tags":
            tags[index, :size] = row.targets
    targets = tags if target == "tags" else np.stack([row.targets for row in rows])
    return TaskBatch(
        tokens=torch.from_numpy(tokens),
        mask=torch.from_numpy(mask),
        segments=torch.from_numpy(segments),
        targets=torch.from_numpy(targets[:, 0] if target == "label" else targets),
        num_tokens=sum(len(row.tokens) for row in rows),
    )


def target_of(task: Task) -> Target:
    """The kind of targets that the task's rows have."""
    if isinstance(task, TokenClassification):
        return "tags"
    if isinstance(task, QuestionAnswering):
        return "answer"
    return "labels" if isinstance(task, TextClassification) and task.multiple else "label"
