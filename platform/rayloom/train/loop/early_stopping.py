"""Whether what was measured is better than before, for early stopping."""

from __future__ import annotations

from rayloom.specs.training.endurance import EarlyStopping
from rayloom.train.loop.heldout_loss import HeldoutMeasure
from rayloom.train.state import TrainState


def is_improvement(stopping: EarlyStopping, state: TrainState, found: HeldoutMeasure) -> bool:
    """Whether it beats the best so far by more than the threshold. The first measurement does, a later NaN does not."""
    if stopping.by == "score":
        score = found.score or 0.0
        return state.best_score is None or score > state.best_score + stopping.threshold
    return state.best_loss is None or found.loss < state.best_loss - stopping.threshold
