"""Whether what was measured is better than before, for early stopping."""

from __future__ import annotations

from rayloom.specs.training.endurance import EarlyStopping
from rayloom.train.loop.heldout_loss import HeldoutLoss
from rayloom.train.state import TrainState


def is_improvement(stopping: EarlyStopping, state: TrainState, found: HeldoutLoss) -> bool:
    """Better than the best so far by more than the threshold. What is not a number is no improvement but the first."""
    if stopping.by == "score":
        score = found.score or 0.0
        return state.best_score is None or score > state.best_score + stopping.threshold
    return state.best_loss is None or found.loss < state.best_loss - stopping.threshold
