"""The loss of labels and of a teacher's distributions together, for language models and for task heads.

Shapes: N positions, V tokens of the vocabulary or labels, C positions in a chunk, B rows, S positions of a row, D
hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayloom.score.batches import NO_LABEL, Batch
from rayloom.score.label_loss import CrossEntropy, LabelLoss
from rayloom.score.model_inputs import model_inputs
from rayloom.score.task_batches import TaskBatch
from rayloom.score.task_loss import TaskLoss, task_logits
from rayloom.specs.training.teacher import ForwardKl, JensenShannon, Teacher

LEAST_LEFT = 1e-6
"""Least probability of all that is not recorded, so that its logarithm is finite."""
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


def recorded_divergence(student: Tensor, tokens: Tensor, log_p: Tensor, spec: Teacher) -> tuple[Tensor, Tensor]:
    """As `divergence`, at temperature 1, to the (N, k) tokens of a teacher that were recorded; all others count as one.

    With u the logarithm of such an outcome's probability, ∂D/∂z = G(u) q(z) / q(u), where G is ∂D/∂u.
    """
    log_q = student.log_softmax(-1)
    total, by_outcome = divergence(_outcomes(log_q.gather(1, tokens)), _outcomes(log_p), spec)
    rest = log_q.detach() - _outcomes(log_q.detach().gather(1, tokens))[:, -1:]
    gradient = rest.exp_().mul_(by_outcome[:, -1:])
    return total, gradient.scatter_(1, tokens, by_outcome[:, :-1].detach())


def _outcomes(log_p: Tensor) -> Tensor:
    """(N, k + 1) log-probabilities of tokens, and of everything else."""
    left = (1 - log_p.exp().sum(-1, keepdim=True)).clamp(min=LEAST_LEFT)
    return torch.cat([log_p, left.log()], -1)


class Comparison(Protocol):
    """The divergence of a chunk's positions from the teacher's."""

    def __call__(self, logits: Tensor, block: slice) -> tuple[Tensor, Tensor]:
        """() and (positions, at most V) the gradient, for some of the chunk's positions."""


@dataclass(frozen=True)
class DistilledCrossEntropy:
    """The criterion of a language model with a teacher (see `label_loss.Criterion`)."""

    labels: CrossEntropy
    compared: Callable[[slice], Comparison]
    """For a chunk: what the teacher thinks of its positions."""
    weight: float

    def value(self, logits: Tensor, part: slice) -> Tensor:
        total = self.compared(part)(logits, slice(0, len(logits)))[0] * self.weight
        return total + self.labels.value(logits, part) * (1 - self.weight)

    def with_gradient(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """The gradient replaces the logits."""
        compare, total = self.compared(part), torch.zeros((), device=logits.device)
        rows = max(1, BLOCK_LOGITS.get(logits.device.type, logits.numel()) // logits.shape[-1])
        for begin in range(0, len(logits), rows):
            block = slice(begin, begin + rows)
            value, gradient = compare(logits[block], block)
            total += value * self.weight
            gradient = functional.pad(gradient.mul_(self.weight), (0, logits.shape[-1] - gradient.shape[-1]))
            if self.weight < 1:
                own = slice(part.start + begin, min(part.start + begin + rows, part.stop))
                of_labels, by_logits = self.labels.with_gradient(logits[block], own)
                total += of_labels * (1 - self.weight)
                gradient.add_(by_logits, alpha=1 - self.weight)
            logits[block] = gradient
        return total, logits


class RecordedLabelLoss(LabelLoss):
    """Wraps a causal model; in training its loss has the part of a teacher that was recorded."""

    def __init__(self, model: nn.Module, spec: Teacher) -> None:
        super().__init__(model)
        self._spec = spec

    def forward(self, batch: Batch) -> Tensor:
        if not self.model.training or batch.soft_tokens is None or batch.soft_log_p is None:
            return super().forward(batch)
        tokens, log_p, indices = batch.soft_tokens, batch.soft_log_p, batch.label_indices

        def compared(part: slice) -> Comparison:
            own_tokens, own_log_p = tokens[part], log_p[part]
            return lambda logits, block: recorded_divergence(logits, own_tokens[block], own_log_p[block], self._spec)

        criterion = DistilledCrossEntropy(CrossEntropy(batch.labels.take(indices)), compared, self._spec.weight)
        return self.head_loss(self.hidden_states(batch, indices), criterion)


class DistilledLabelLoss(LabelLoss):
    """Wraps a causal or masked model; in training its loss has the teacher's part too.

    `layers`: which layer of the teacher each layer of the student was, if hidden states are compared.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module, spec: Teacher, layers: Sequence[int] = ()) -> None:
        super().__init__(model)
        self._teacher = (LabelLoss(teacher),)  # in a tuple, so that engines do not take it for a part of the model
        self._spec, self._layers = spec, layers

    def forward(self, batch: Batch) -> Tensor:
        if not self.model.training:
            return super().forward(batch)
        (teacher,), indices = self._teacher, batch.label_indices
        with torch.no_grad():
            seen, states_of_teacher = _hidden_and_states(teacher, batch, indices, bool(self._layers))

        def compared(part: slice) -> Comparison:
            with torch.no_grad():
                soft = teacher.logits(seen[part])

            def compare(logits: Tensor, block: slice) -> tuple[Tensor, Tensor]:
                shared = min(logits.shape[-1], soft.shape[-1])  # vocabularies may be padded to other sizes
                return divergence(logits[:, :shared], soft[block, :shared], self._spec)

            return compare

        criterion = DistilledCrossEntropy(CrossEntropy(batch.labels.take(indices)), compared, self._spec.weight)
        hidden, states = _hidden_and_states(self, batch, indices, bool(self._layers))
        total = self.head_loss(hidden, criterion)
        if self._spec.hidden_states_weight is not None and self._layers:
            learned = [*(states_of_teacher[number] for number in self._layers[:-1]), states_of_teacher[-1]]
            total = total + self._spec.hidden_states_weight * layer_distance(states, learned, indices)
        return total


def _hidden_and_states(
    loss: LabelLoss, batch: Batch, indices: Tensor, with_states: bool
) -> tuple[Tensor, Sequence[Tensor]]:
    """(N, D) the inputs of the output head, and, if asked for, (B, S, D) what each layer gives on."""
    if not with_states:
        return loss.hidden_states(batch, indices), ()
    inputs = model_inputs(loss.model, batch, has_virtual_tokens=False) | {"output_hidden_states": True}
    hidden, output = loss.run(inputs, batch.labels.shape[1], indices)
    return hidden, output.hidden_states[1:]  # the first are the embeddings


def layer_distance(student: Sequence[Tensor], teacher: Sequence[Tensor], indices: Tensor) -> Tensor:
    """() the mean over layers of ‖s − t‖² / ‖t‖², summed over positions of the flattened batch. States: (B, S, D).

    Relative, since states grow from layer to layer, and those of a few tokens are a thousand times as large as others.
    """
    total = student[0].sum(dtype=torch.float32) * 0.0  # a graph for the backward pass even without labels
    for of_student, of_teacher in zip(student, teacher, strict=True):
        one, other = (states.flatten(0, 1).index_select(0, indices).float() for states in (of_student, of_teacher))
        total = total + ((one - other).square().sum(-1) / other.square().sum(-1)).sum()
    return total / len(student)


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
