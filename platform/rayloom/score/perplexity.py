"""Loss and perplexity of a causal model on packed rows, or on each of many documents.

Losses are sums of nats with a token count, so they can be added. The model may be any that `models.loading.load` gives,
also with an adapter or INT8 weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayloom.score.batches import PackedRow, causal_batch
from rayloom.score.label_loss import LabelLoss


class PackedRows(Protocol):
    """Packed rows by number, such as `text.packed.shards.TokenShards`."""

    def __len__(self) -> int: ...
    def row(self, index: int) -> PackedRow: ...


@dataclass(frozen=True)
class Loss:
    """Sum of −log p over labels."""

    nats: float
    num_tokens: int
    """Number of labels, not of tokens read."""

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
    """The loss over all rows. `advance` is called with the number of rows of each finished batch."""
    device = next(model.parameters()).device
    was_training = model.training
    loss = LabelLoss(model).eval()
    total = Loss(0.0, 0)
    try:
        for first in range(0, len(rows), micro_batch_sequences):
            numbers = range(first, min(first + micro_batch_sequences, len(rows)))
            # Padding has no label and no other token attends to it, so any token will do.
            batch = causal_batch([rows.row(number) for number in numbers], padding_token=0)
            total += Loss(float(loss(batch.to(device))), batch.num_labels)
            advance(len(numbers))
    finally:
        model.train(was_training)
    return total


# The loss of each of many documents.
#
# Shapes: T tokens of a document.


@dataclass(frozen=True)
class _DocumentRow:
    """A document after one token of context; each of its tokens is a label."""

    tokens: NDArray[np.int64]

    @property
    def trained(self) -> NDArray[np.bool_]:
        return np.ones(len(self.tokens), np.bool_)

    @property
    def positions(self) -> NDArray[np.int64]:
        return np.arange(len(self.tokens))


@torch.no_grad()
def document_losses(
    model: nn.Module, documents: Sequence[NDArray[np.int64]], context_token: int, micro_batch_sequences: int
) -> list[Loss]:
    """The loss of each document (T,), in order. Documents of similar length form a batch."""
    device = next(model.parameters()).device
    loss = LabelLoss(model).eval()
    order = sorted(range(len(documents)), key=lambda index: (len(documents[index]), index))
    losses: list[Loss] = [Loss(0.0, 0)] * len(documents)
    for first in range(0, len(order), micro_batch_sequences):
        numbers = [index for index in order[first : first + micro_batch_sequences] if len(documents[index])]
        if not numbers:
            continue
        rows = [_DocumentRow(np.append(context_token, documents[index]).astype(np.int64)) for index in numbers]
        # Padding has no label and no other token attends to it, so any token will do.
        nats = loss.by_row(causal_batch(rows, padding_token=0).to(device)).tolist()
        for index, value in zip(numbers, nats, strict=True):
            losses[index] = Loss(float(value), len(documents[index]))
    return losses
