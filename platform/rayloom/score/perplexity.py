"""The loss of a causal model on packed rows: a sum of nats and a number of tokens, so that parts can be added.

Works on whatever `models.loading.load` gives: a model, a model with an adapter, a model with INT8 weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from rayloom.score.batches import PackedRow, causal_batch
from rayloom.score.label_loss import LabelLoss


class PackedRows(Protocol):
    """Packed rows by number, as `text.shards.TokenShards` has them."""

    def __len__(self) -> int: ...
    def row(self, index: int) -> PackedRow: ...


@dataclass(frozen=True)
class Loss:
    """−log p of labels, summed."""

    nats: float
    num_tokens: int
    """Labels, not tokens read."""

    @property
    def mean_nats(self) -> float:
        return self.nats / self.num_tokens if self.num_tokens else math.nan

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.mean_nats, 700.0))

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.nats + other.nats, self.num_tokens + other.num_tokens)

    def as_metrics(self) -> dict[str, Any]:
        return {
            "mean_nats": round(self.mean_nats, 6),
            "perplexity": round(self.perplexity, 4),
            "num_tokens": self.num_tokens,
        }


@torch.no_grad()
def heldout_loss(
    model: nn.Module, rows: PackedRows, micro_batch_sequences: int, advance: Callable[[int], None] = lambda _: None
) -> Loss:
    """The loss over all rows. `advance` is told how many rows are done."""
    device = next(model.parameters()).device
    was_training = model.training
    loss = LabelLoss(model).eval()
    total = Loss(0.0, 0)
    try:
        for first in range(0, len(rows), micro_batch_sequences):
            numbers = range(first, min(first + micro_batch_sequences, len(rows)))
            # Padding has no label and is seen by nobody, so any token will do.
            batch = causal_batch([rows.row(number) for number in numbers], padding_token=0)
            total += Loss(float(loss(batch.to(device))), batch.num_labels)
            advance(len(numbers))
    finally:
        model.train(was_training)
    return total
