"""The loss of a reward model over pairs of answers, and how well its numbers tell the better one.

Shapes: B pairs, S positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rayloom.score.batches import moved
from rayloom.score.tally import AnswerTally
from rayloom.score.task_batches import TaskBatch, task_batch
from rayloom.score.task_loss import task_logits

NUM_BINS = 10
"""Bins of the calibration error."""


@dataclass(frozen=True)
class ScoredText:
    """A conversation up to the end of its last answer, as a row of a task without a target."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]

    @classmethod
    def of(cls, tokens: Sequence[int] | NDArray[np.int64]) -> ScoredText:
        return cls(np.asarray(tokens, np.int64), np.zeros(1, np.int64))

    @property
    def segments(self) -> NDArray[np.int64]:
        return np.zeros_like(self.tokens)


@dataclass(frozen=True)
class PairBatch:
    """Pairs of answers, each a row of its own."""

    answers: TaskBatch
    """2 · B rows: of each pair the better answer, then the worse one."""
    margins: Tensor
    """(B,) by how much the better one should lead."""
    num_labels: int
    """Pairs in the loss; 0 if the batch only keeps workers in step."""

    @property
    def num_tokens(self) -> int:
        return self.answers.num_tokens

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu":
            return self
        return replace(self, answers=self.answers.to(device), **moved(self, device))

    def without_labels(self) -> Self:
        """The same computation, with zero loss and zero gradients."""
        return replace(self, num_labels=0)


def pair_batch(rows: Sequence[Any], padding_token: int) -> PairBatch:
    """PreferenceRows as one batch. Packed documents become rows of their own, as transformers' models read them."""
    answers = [ScoredText.of(tokens) for row in rows for tokens in answers_of(row)]
    margins = torch.tensor([row.margin for row in rows])
    return PairBatch(task_batch(answers, "label", padding_token), margins, len(rows))


def answers_of(row: Any) -> Iterator[NDArray[np.int64]]:
    """The token ids of both documents of a PreferenceRow."""
    begins = np.flatnonzero(row.row.positions == 0).tolist()
    yield from np.split(row.row.tokens, begins[1:])


class PairLoss(nn.Module):
    """Maps a batch to the sum of −log σ(lead of the better answer − margin); `tally` counts leads over 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.tally = AnswerTally()

    def forward(self, batch: PairBatch) -> Tensor:
        # transformers finds the end of a text by the configuration's padding token, which the tokenizer may not have.
        config: Any = self.model.config
        tokens = batch.answers.tokens.masked_fill(batch.answers.mask == 0, config.pad_token_id)
        rewards = task_logits(self.model, replace(batch.answers, tokens=tokens), "label").view(-1, 2)
        leads = rewards[:, 0] - rewards[:, 1]
        if not self.model.training and batch.num_labels:
            hits, pairs = float((leads > 0).sum()), float(batch.num_labels)
            self.tally += AnswerTally(hits, hits, pairs, pairs)
        losses = -functional.logsigmoid(leads - batch.margins)
        # A batch without labels still needs a graph for the backward pass.
        return losses.sum() if batch.num_labels else losses.nan_to_num().sum() * 0.0


def calibration_error(leads: NDArray[np.float64]) -> float:
    """Mean distance between σ(|lead|), which is how sure the model is, and how often it is right (Guo et al. 2017,
    arXiv:1706.04599, equation 3), over bins of equal width from 0.5 to 1."""
    sure, right = 1 / (1 + np.exp(-np.abs(leads))), leads > 0
    bins = np.minimum(((sure - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
    parts = [(bins == number) for number in range(NUM_BINS)]
    return float(sum(abs(sure[part].sum() - right[part].sum()) for part in parts) / len(leads))
