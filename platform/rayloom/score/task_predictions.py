"""A task model's logits for many rows, rows of like length together.

Shapes: S positions of a row, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayloom.score.task_batches import Target, TaskRow, task_batch
from rayloom.score.task_loss import task_logits


@torch.no_grad()
def logits_of_rows(
    model: nn.Module,
    rows: Sequence[TaskRow],
    target: Target,
    micro_batch_sequences: int,
    padding_token: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[NDArray[np.float32]]:
    """fp32, in the rows' order: (K,) for a text, (S, K) for tags, (2, S) for the ends of an answer."""
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].tokens))
    found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(rows)
    for first in range(0, len(order), micro_batch_sequences):
        numbers = order[first : first + micro_batch_sequences]
        batch = task_batch([rows[number] for number in numbers], target, padding_token).to(device)
        logits = task_logits(model, batch, target).cpu().numpy()
        for place, number in enumerate(numbers):
            length = len(rows[number].tokens)
            own = {"tags": logits[place][:length], "answer": logits[place][..., :length]}
            found[number] = own.get(target, logits[place]).copy()
        advance(len(numbers))
    return found
