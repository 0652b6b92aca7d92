"""The loss on held-out rows, computed by all workers together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from rayloom.score.tally import AnswerTally
from rayloom.train.engines.engine import Engine
from rayloom.train.loop.batch_feed import MEASURING
from rayloom.train.objectives.objective import Objective, StoredRows
from rayloom.train.process_group import Group


@dataclass(frozen=True)
class HeldoutMeasure:
    """Means over the labels of held-out rows; the loss is in nats per label."""

    loss: float
    num_labels: int
    accuracy: float | None = None
    """Share of labels that the model finds most probable; None if the objective does not count them."""
    score: float | None = None
    """The task's score (see `score.tally`); None if the objective does not count it."""

    parts: dict[str, float | None] | None = None
    """Of a policy: the mean of each reward."""

    def as_event(self) -> dict[str, Any]:
        """What is logged: numbers that were measured. What is left of a reward to 1 has no perplexity."""
        found: dict[str, Any] = {"loss": self.loss, "labels": self.num_labels}
        if self.parts is None:
            found["perplexity"] = math.exp(min(self.loss, 700.0))
        further = {"accuracy": self.accuracy, "score": self.score, "parts": self.parts}
        return found | {name: value for name, value in further.items() if value is not None}


@torch.no_grad()
def heldout_loss(
    engine: Engine, objective: Objective, shards: StoredRows, micro_batch_sequences: int, group: Group
) -> HeldoutMeasure:
    """The measures over all rows: the same on all workers and, up to rounding, for any number of workers.

    Masks and spans of a row are the same at every measurement of every run.
    """
    total, num_labels = 0.0, 0
    is_counted = hasattr(engine.model, "tally")
    if is_counted:
        engine.model.tally = AnswerTally()
    at_once = micro_batch_sequences * group.rows.size
    for begin in range(0, len(shards), at_once):
        first = begin + group.rows.rank * micro_batch_sequences
        last = min(first + micro_batch_sequences, len(shards))
        # Sharded weights are gathered collectively, so all workers must run equally many batches.
        numbers = list(range(first, last)) or [begin]
        batch = objective.batch([shards.row(n) for n in numbers], [(MEASURING, n) for n in numbers])
        if first >= last:
            batch = batch.without_labels()
        total += float(engine.loss(batch.to(group.device)))
        num_labels += batch.num_labels
    own = engine.model.tally if is_counted else AnswerTally()
    total, labels, *counts = group.agreed(*(group.once(value) for value in (total, num_labels, *own.values)))
    loss = HeldoutMeasure(total / max(1, labels), int(labels))
    if not is_counted:
        return loss
    tally = AnswerTally(*counts)
    return replace(loss, accuracy=tally.hits / max(1, labels), score=tally.score)
