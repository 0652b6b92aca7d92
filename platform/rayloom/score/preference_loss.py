"""Preference losses from the log-probabilities of whole answers: DPO, ORPO, SimPO and KTO.

Shapes: B rows of two documents each, S positions, N labelled positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rayloom.score.batches import Batch, moved
from rayloom.score.label_loss import LabelLoss, LogitScale, chunk_positions, output_head
from rayloom.score.model_inputs import documents_of
from rayloom.score.tally import AnswerTally
from rayloom.specs.training.preferences import Dpo, Kto, Orpo, SimPo

Preference = Dpo | Orpo | SimPo | Kto


@dataclass(frozen=True)
class PreferenceBatch:
    """Rows of two documents: chosen and rejected answer, or for KTO the row's answer and a mismatched one."""

    both: Batch
    reference: Tensor
    """(B, 2) log p of both answers by the reference model."""
    is_good: Tensor
    """(B,) whether the first answer is good; always true for pairs."""
    num_labels: int
    """Rows in the loss; 0 if the batch only keeps workers in step."""

    @property
    def num_tokens(self) -> int:
        return self.both.num_tokens

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu":
            return self
        return replace(self, both=self.both.to(device), **moved(self, device))

    def without_labels(self) -> Self:
        """The same computation, with zero loss and zero gradients."""
        return replace(self, num_labels=0)


@dataclass(frozen=True)
class Answers:
    """Log-probabilities of both answers of each row."""

    log_p: Tensor
    """(B, 2) fp32, summed over each answer's tokens."""
    num_tokens: Tensor
    """(B, 2) tokens of each answer."""

    @property
    def mean(self) -> Tensor:
        return self.log_p / self.num_tokens.clamp(min=1)


class PreferenceLoss(nn.Module):
    """Maps a batch to the sum of its rows' losses. In evaluation `tally` counts rows with a positive margin."""

    def __init__(self, model: nn.Module, preference: Preference) -> None:
        super().__init__()
        self.model, self.preference = model, preference
        self._answers = AnswerLogProbabilities(model)
        self.tally = AnswerTally()

    def forward(self, batch: PreferenceBatch) -> Tensor:
        answers = self.answers(batch.both)
        losses, margins = losses_of(self.preference, answers, batch.reference, batch.is_good)
        if not self.model.training and batch.num_labels:
            hits, rows = float((margins > 0).sum()), float(batch.num_labels)
            self.tally += AnswerTally(hits, hits, rows, rows)
        # A batch without labels still needs a graph for the backward pass.
        return losses.sum() if batch.num_labels else losses.nan_to_num().sum() * 0.0

    def answers(self, both: Batch) -> Answers:
        """The log-probabilities of both answers of each row."""
        return self._answers.of(both)


class AnswerLogProbabilities(LabelLoss):
    """log p of every document, computed at labelled positions only."""

    def of(self, batch: Batch) -> Answers:
        indices = batch.label_indices
        log_p = self._token_log_p(self.hidden_states(batch, indices), batch.labels.take(indices))
        documents = documents_of(batch.positions) - 1
        answers = 2 * torch.arange(len(documents), device=documents.device)[:, None] + documents
        answer_of_label = answers.take(indices)
        empty = torch.zeros(2 * len(documents), dtype=torch.float32, device=log_p.device)
        sums = empty.index_add(0, answer_of_label, log_p)
        counts = empty.index_add(0, answer_of_label, torch.ones_like(log_p))
        return Answers(sums.view(-1, 2), counts.view(-1, 2))

    def _token_log_p(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """(N,) log p of each label, in checkpointed chunks, so that no (N, V) tensor is stored."""
        head, scale = output_head(self.model), LogitScale.of(self.model)
        config: Any = self.model.config
        chunk = chunk_positions(config.vocab_size, hidden.device.type)
        slices = [slice(begin, begin + chunk) for begin in range(0, len(labels), chunk)]
        parts = [checkpoint(_log_p, head, scale, hidden[part], labels[part], use_reentrant=False) for part in slices]
        return torch.cat(parts) if parts else hidden.sum(dim=-1).float()


def _log_p(head: nn.Module, scale: LogitScale, hidden: Tensor, labels: Tensor) -> Tensor:
    return -functional.cross_entropy(scale(head(hidden)).float(), labels, reduction="none")


def losses_of(preference: Preference, answers: Answers, reference: Tensor, is_good: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) losses, and (B,) margins by which the model agrees with the preference. Equations: `specs.preferences`."""
    if isinstance(preference, Kto):
        return _kto(preference, answers, reference, is_good)
    if isinstance(preference, Dpo):
        rewards = preference.beta * (answers.log_p - reference)
        margin = rewards[:, 0] - rewards[:, 1]
        smooth = preference.label_smoothing
        losses = -(1 - smooth) * functional.logsigmoid(margin) - smooth * functional.logsigmoid(-margin)
        return losses, margin
    mean = answers.mean
    if isinstance(preference, SimPo):
        margin = preference.beta * (mean[:, 0] - mean[:, 1])
        return -functional.logsigmoid(margin - preference.margin), margin
    odds = mean - torch.log1p(-torch.exp(mean.clamp(max=-1e-6)))
    margin = odds[:, 0] - odds[:, 1]
    return -mean[:, 0] - preference.weight * functional.logsigmoid(margin), margin


def _kto(preference: Kto, answers: Answers, reference: Tensor, is_good: Tensor) -> tuple[Tensor, Tensor]:
    moved = answers.log_p - reference
    # The estimate of KL(model ‖ reference), which has no gradient (Ethayarajh et al. 2024, section 4.1).
    general = moved[:, 1].detach().mean().clamp(min=0)
    reward = preference.beta * (moved[:, 0] - general)
    sign = torch.where(is_good, 1.0, -1.0)
    weight = torch.where(is_good, preference.good_weight, preference.bad_weight)
    return weight * (1 - torch.sigmoid(sign * reward)), sign * moved[:, 0]
