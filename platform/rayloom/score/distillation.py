"""The loss of labels and of a teacher's distributions together, for language models and for task heads.

Shapes: N positions, V tokens of the vocabulary or labels, C positions in a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayloom.score.batches import NO_LABEL, Batch
from rayloom.score.label_loss import CrossEntropy, LabelLoss
from rayloom.score.task_batches import TaskBatch
from rayloom.score.task_loss import TaskLoss, task_logits
from rayloom.specs.training.teacher import ForwardKl, JensenShannon, Teacher

BLOCK_LOGITS = {"cpu": 1 << 19}
"""Most logits that are compared at once, by device: on a CPU, so many that they stay in its cache."""


def divergence(student: Tensor, teacher: Tensor, spec: Teacher) -> tuple[Tensor, Tensor]:
    """() T² · D summed over N, from fp32 logits (N, V) at temperature T, and (N, V) its gradient by the student's.

    With p the teacher's distribution, q the student's and m = βp + (1 − β)q, D is KL(p‖q), KL(q‖p), or
    β KL(p‖m) + (1 − β) KL(q‖m) (Agarwal et al. 2023, arXiv:2306.13649, section 2). T² keeps the size of the gradient
    (Hinton et al. 2015, arXiv:1503.02531, section 2).
    """
    temperature, form = spec.temperature, spec.divergence
    log_q, log_p = (_at(logits, temperature).log_softmax(-1) for logits in (student, teacher))
    q = log_q.exp()
    if isinstance(form, ForwardKl):
        p = log_p.exp()
        total = _inner(p, log_p) - _inner(p, log_q)
        gradient = q - p
    elif isinstance(form, JensenShannon):
        share, p = form.teacher_share, log_p.exp()
        log_m = torch.logaddexp(log_p + math.log(share), log_q + math.log(1 - share))
        gap = log_q - log_m
        by_row = (q * gap).sum(-1, keepdim=True)
        total = share * _inner(p, log_p - log_m) + (1 - share) * by_row.sum()
        gradient = (1 - share) * q * (gap - by_row)
    else:
        gap = log_q - log_p
        by_row = (q * gap).sum(-1, keepdim=True)
        total, gradient = by_row.sum(), q * (gap - by_row)
    return total * temperature**2, gradient * temperature if temperature != 1 else gradient


def _at(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits / temperature


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return torch.dot(one.flatten(), other.flatten())


@dataclass(frozen=True)
class DistilledCrossEntropy:
    """The criterion of a language model with a teacher (see `label_loss.Criterion`)."""

    labels: CrossEntropy
    teacher_logits: Callable[[slice], Tensor]
    """(C, V) fp32 logits of a chunk's positions. Vocabularies may be padded to other sizes."""
    spec: Teacher

    def value(self, logits: Tensor, part: slice) -> Tensor:
        student, teacher = self._both(logits, part)
        total = divergence(student, teacher, self.spec)[0] * self.spec.weight
        return total + self.labels.value(logits, part) * (1 - self.spec.weight)

    def with_gradient(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """The gradient replaces the logits."""
        weight, (student, teacher) = self.spec.weight, self._both(logits, part)
        total = torch.zeros((), device=logits.device)
        rows = max(1, BLOCK_LOGITS.get(logits.device.type, logits.numel()) // logits.shape[-1])
        for begin in range(0, len(logits), rows):
            block = slice(begin, begin + rows)
            value, gradient = divergence(student[block], teacher[block], self.spec)
            total += value * weight
            gradient = functional.pad(gradient.mul_(weight), (0, logits.shape[-1] - gradient.shape[-1]))
            if weight < 1:
                own = slice(part.start + begin, min(part.start + begin + rows, part.stop))
                of_labels, by_logits = self.labels.with_gradient(logits[block], own)
                total += of_labels * (1 - weight)
                gradient.add_(by_logits, alpha=1 - weight)
            logits[block] = gradient
        return total, logits

    def _both(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            teacher = self.teacher_logits(part)
        shared = min(logits.shape[-1], teacher.shape[-1])
        return logits[:, :shared], teacher[:, :shared]


class DistilledLabelLoss(LabelLoss):
    """Wraps a causal or masked model; in training its loss has the teacher's part too."""

    def __init__(self, model: nn.Module, teacher: nn.Module, spec: Teacher) -> None:
        super().__init__(model)
        self._teacher = (LabelLoss(teacher),)  # in a tuple, so that engines do not take it for a part of the model
        self._spec = spec

    def forward(self, batch: Batch) -> Tensor:
        if not self.model.training:
            return super().forward(batch)
        (teacher,), indices = self._teacher, batch.label_indices
        with torch.no_grad():
            seen = teacher.hidden_states(batch, indices)
        labels = CrossEntropy(batch.labels.take(indices))
        criterion = DistilledCrossEntropy(labels, lambda part: teacher.logits(seen[part]), self._spec)
        return self.head_loss(self.hidden_states(batch, indices), criterion)


class DistilledTaskLoss(TaskLoss):
    """Wraps a classifier or tagger; in training its loss has the teacher's part too (soft labels)."""

    def __init__(self, loss: TaskLoss, teacher: nn.Module, spec: Teacher) -> None:
        super().__init__(loss.model, loss.target, loss.smoothing)
        self.weights = loss.weights
        self._teacher, self._spec = (teacher,), spec

    def of_logits(self, logits: Tensor, batch: TaskBatch) -> Tensor:
        of_labels = super().of_logits(logits, batch)
        if not self.model.training:
            return of_labels
        with torch.no_grad():
            soft = task_logits(self._teacher[0], batch, self.target)
        asked = batch.targets != NO_LABEL
        if self.target == "labels":  # each label is a choice of its own between yes and no
            logits, soft = (torch.stack([of_one, torch.zeros_like(of_one)], -1) for of_one in (logits, soft))
        total, _ = divergence(logits[asked], soft[asked], self._spec)
        return of_labels * (1 - self._spec.weight) + total * self._spec.weight
