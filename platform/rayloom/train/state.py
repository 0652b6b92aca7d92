"""Where a run stands: all that resuming needs beside the engine's weights and optimiser state."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass
class TrainState:
    """Random state is not here: it is a pure function of seed and step, like the order of rows."""

    step: int = 0
    """Steps done, skipped ones too. The position in the data follows from it: global batches are all alike."""
    num_updates: int = 0
    """Optimiser updates applied."""
    tokens: int = 0
    """Tokens read so far."""
    learning_rate_factor: float = 1.0
    """Below 1 after going back from a fault."""
    loss_scale: float | None = None
    """In fp16: what losses are multiplied by, once a step moved it."""
    steps_at_scale: int = 0
    typical_loss: float | None = None
    """Running mean of the loss, against which a spike is seen."""
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
