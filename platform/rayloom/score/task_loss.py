"""The loss of a model with a task head, and its logits for a batch or for many rows.

Shapes: B rows, S positions, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rayloom.score.batches import NO_LABEL
from rayloom.score.tally import AnswerTally, tally_of
from rayloom.score.task_batches import Target, TaskBatch, TaskRow, task_batch


class TaskLoss(nn.Module):
    """Wraps a model with a task head and maps a batch to its summed cross-entropy.

    Class weights and label smoothing apply in training only. In evaluation `tally` accumulates the score's counts until
    the caller resets it.
    """

    def __init__(
        self, model: nn.Module, target: Target, smoothing: float = 0.0, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.model, self.target, self.smoothing = model, target, smoothing
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float32)
        self.tally = AnswerTally()

    def forward(self, batch: TaskBatch) -> Tensor:
        """() fp32, summed over the labels, not averaged: only the caller knows how many there are in all."""
        return self.of_logits(task_logits(self.model, batch, self.target), batch)

    def of_logits(self, logits: Tensor, batch: TaskBatch) -> Tensor:
        """The loss of logits that `task_logits` gave."""
        weights = self.weights.to(logits.device) if self.model.training and self.weights is not None else None
        smoothing = self.smoothing if self.model.training else 0.0
        if not self.model.training:
            self.tally += tally_of(logits, batch.targets, self.target)
        if self.target == "labels":
            return _labels_loss(logits, batch.targets, weights)
        # (…, K) against (…); the two ends of an answer are two classifications over the S tokens.
        scores = logits.reshape(-1, logits.shape[-1])
        targets = batch.targets.reshape(-1)
        return functional.cross_entropy(
            scores, targets, weight=weights, ignore_index=NO_LABEL, reduction="sum", label_smoothing=smoothing
        )


def task_logits(model: nn.Module, batch: TaskBatch, target: Target) -> Tensor:
    """fp32 logits: (B, K) for a text, (B, S, K) for tags, (B, 2, S) for the ends of an answer."""
    inputs: dict[str, Any] = {"input_ids": batch.tokens, "attention_mask": batch.mask}
    config: Any = model.config
    if int(getattr(config, "type_vocab_size", 0) or 0) > 1:
        inputs["token_type_ids"] = batch.segments
    output = model(**inputs, **without_cache(model))
    if target == "answer":
        ends = torch.stack([output.start_logits, output.end_logits], dim=1)[..., -batch.tokens.shape[1] :]
        # Padding must not be chosen as an end.
        return ends.float().masked_fill(batch.mask[:, None] == 0, torch.finfo(torch.float32).min)
    logits: Tensor = output.logits
    # Virtual tokens of prompt methods come before the row's tokens.
    return (logits[:, -batch.tokens.shape[1] :] if target == "tags" else logits).float()


def without_cache(model: nn.Module) -> dict[str, bool]:
    """The input that keeps a decoder from filling a cache; none if virtual tokens are passed as one, or for an encoder,
    which has none."""
    config: Any = model.config
    peft: Any = getattr(model, "active_peft_config", None)
    is_encoder = not getattr(config, "is_decoder", False) and hasattr(config, "type_vocab_size")
    is_without = is_encoder or getattr(peft, "is_prompt_learning", False) or not hasattr(config, "use_cache")
    return {} if is_without or getattr(config, "is_encoder_decoder", False) else {"use_cache": False}


def _labels_loss(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    asked = targets != NO_LABEL
    losses = functional.binary_cross_entropy_with_logits(logits, targets.clamp(min=0).float(), reduction="none")
    if weights is not None:
        losses = losses * torch.where(targets == 1, weights, torch.ones_like(weights))
    return (losses * asked).sum()


# A task model's logits for many rows, in batches of similar length.
#
# Shapes: S positions of a row, K labels.


@torch.no_grad()
def logits_of_rows(
    model: nn.Module,
    rows: Sequence[TaskRow],
    target: Target,
    micro_batch_sequences: int,
    padding_token: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[NDArray[np.float32]]:
    """fp32 logits of each row, in order: (K,) for a text, (S, K) for tags, (2, S) for the ends of an answer."""
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].tokens))
    results: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(rows)
    for first in range(0, len(order), micro_batch_sequences):
        numbers = order[first : first + micro_batch_sequences]
        batch = task_batch([rows[number] for number in numbers], target, padding_token).to(device)
        logits = task_logits(model, batch, target).cpu().numpy()
        for position, number in enumerate(numbers):
            length = len(rows[number].tokens)
            own = {"tags": logits[position][:length], "answer": logits[position][..., :length]}
            results[number] = own.get(target, logits[position]).copy()
        advance(len(numbers))
    return results
