"""The state of a run: all that resuming needs besides weights and optimiser state."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass
class TrainState:
    """Counters and running values of a run. Random state is not stored: it is a function of seed and step."""

    step: int = 0
    """Steps done, skipped ones included. Global batches have equal size, so it gives the position in the data."""
    num_updates: int = 0
    """Optimiser updates applied."""
    tokens: int = 0
    """Tokens read so far."""
    learning_rate_factor: float = 1.0
    """Factor on the learning rate; below 1 after going back to a checkpoint because of bad steps."""
    loss_scale: float | None = None
    """fp16 loss scale; None before the first step."""
    steps_at_scale: int = 0
    typical_loss: float | None = None
    """Running mean of the loss, to detect spikes."""
    skipped_steps: list[int] = field(default_factory=list)
    rollbacks: int = 0
    best_loss: float | None = None
    best_score: float | None = None
    best_step: int | None = None
    evaluations_without_improvement: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        return cls(**values)
