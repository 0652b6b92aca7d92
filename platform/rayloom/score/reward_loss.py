"""Losses of a reward model over pairs of answers and over judged steps, and how well its numbers tell the better one.

Shapes: B pairs, or rows with steps; S positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rayloom.score.batches import NO_LABEL, moved
from rayloom.score.tally import AnswerTally
from rayloom.score.task_batches import TaskBatch, TaskRow, task_batch
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


# Process rewards (Lightman et al. 2023, arXiv:2305.20050).


class StepLoss(nn.Module):
    """Maps a batch to the sum of −log of the probability of each step's label; `tally` counts the right ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.tally = AnswerTally()

    def forward(self, batch: TaskBatch) -> Tensor:
        logits, asked = position_logits(self.model, batch), batch.targets != NO_LABEL
        if not self.model.training:
            hits, steps = float(((logits > 0) == (batch.targets == 1))[asked].sum()), float(asked.sum())
            self.tally += AnswerTally(hits, hits, steps, steps)
        losses = functional.binary_cross_entropy_with_logits(logits, (batch.targets == 1).float(), reduction="none")
        return (losses * asked).sum()


def position_logits(model: nn.Module, batch: TaskBatch) -> Tensor:
    """(B, S) fp32 what the head of a reward model says at every position, of which the model gives the last one."""
    config: Any = model.config
    heads = (module for name, module in model.named_modules() if name.rpartition(".")[2] == "score")
    found: list[Tensor] = []
    # The head is a module of its own in transformers' models; with an adapter, a wrapper around it.
    handle = next(heads).register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        # transformers finds the end of a text by the configuration's padding token, which the tokenizer may not have.
        tokens = batch.tokens.masked_fill(batch.mask == 0, config.pad_token_id)
        task_logits(model, replace(batch, tokens=tokens), "label")
    finally:
        handle.remove()
    return found[-1][:, -batch.tokens.shape[1] :, 0].float()


@torch.no_grad()
def step_probabilities(
    model: nn.Module,
    rows: Sequence[tuple[TaskRow, Sequence[int]]],
    micro_batch_sequences: int,
    padding_token: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[list[float]]:
    """The probability that each step is right, for rows with the places where their steps end."""
    device = next(model.parameters()).device
    found: list[list[float]] = []
    for first in range(0, len(rows), micro_batch_sequences):
        part = rows[first : first + micro_batch_sequences]
        batch = task_batch([row for row, _ in part], "tags", padding_token).to(device)
        logits = position_logits(model, batch)
        found += [logits[number, list(ends)].sigmoid().tolist() for number, (_, ends) in enumerate(part)]
        advance(len(part))
    return found
