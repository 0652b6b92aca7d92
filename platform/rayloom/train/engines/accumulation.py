"""The gradients of a step's micro-batches, computed one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from rayloom.train.objectives.objective import TrainBatch

if TYPE_CHECKING:
    from rayloom.train.engines.engine import Engine


class AccumulatesInTurn:
    """Gives an engine with `loss` and `backward` its `accumulate`."""

    def accumulate(
        self: Engine, batches: Sequence[TrainBatch], num_labels: int, limit: float, seed: Callable[[int], None]
    ) -> float:
        """See `Engine.accumulate`."""
        device = self.group.device
        total = torch.zeros((), device=device)
        mean = total
        for number, batch in enumerate(batches):
            seed(number)
            loss = self.loss(batch.to(device))
            total += loss.detach()
            scale = torch.tensor(1 / max(1, num_labels), device=device)
            is_last = number == len(batches) - 1
            if is_last:
                mean = self.group.copies.summed(total) * scale
                scale = torch.where(mean <= limit, scale, torch.nan)
            self.backward(loss * scale, is_last)
        return float(mean)
