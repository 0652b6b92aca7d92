"""How likely a causal model finds each of many documents.

Shapes: T tokens of a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayloom.score.batches import causal_batch
from rayloom.score.label_loss import LabelLoss
from rayloom.score.perplexity import Loss


@dataclass(frozen=True)
class _DocumentRow:
    """One document behind one token of context; every token of it is a label."""

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
    """The loss of each document (T,), in their order. Documents of like length are read together."""
    device = next(model.parameters()).device
    loss = LabelLoss(model).eval()
    order = sorted(range(len(documents)), key=lambda index: (len(documents[index]), index))
    found: list[Loss] = [Loss(0.0, 0)] * len(documents)
    for first in range(0, len(order), micro_batch_sequences):
        numbers = [index for index in order[first : first + micro_batch_sequences] if len(documents[index])]
        if not numbers:
            continue
        rows = [_DocumentRow(np.append(context_token, documents[index]).astype(np.int64)) for index in numbers]
        # Padding has no label and is seen by nobody, so any token will do.
        nats = loss.by_row(causal_batch(rows, padding_token=0).to(device)).tolist()
        for index, value in zip(numbers, nats, strict=True):
            found[index] = Loss(float(value), len(documents[index]))
    return found
