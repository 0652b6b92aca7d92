"""Decisions about a step: what to do if it failed, its learning rate, and whether a measurement is an improvement.

These are pure functions, but for the running mean of the loss; only the loop acts on a decision.
"""

from __future__ import annotations

import math
from enum import Enum

from rayloom.specs.training.endurance import EarlyStopping, Faults
from rayloom.specs.training.optimization import Schedule
from rayloom.train.loop.heldout_loss import HeldoutMeasure
from rayloom.train.state import TrainState

LOSS_MEMORY = 0.98
"""Decay of the exponential moving average of the loss."""


class StepDecision(Enum):
    """What to do after a step that was not applied; the value explains it."""

    SKIP = "the step is left out and training goes on"
    GO_BACK = "training goes back to the last checkpoint, with a lower learning rate"
    STOP = "training stops"


def loss_limit(policy: Faults, state: TrainState) -> float:
    """The loss above which a step is not applied. A step with a loss of NaN or infinity is never applied."""
    if policy.spike_factor is None or state.typical_loss is None:
        return float("inf")
    return state.typical_loss * policy.spike_factor


def after_bad_step(policy: Faults, state: TrainState, has_checkpoint: bool) -> StepDecision:
    """The decision after a step that was not applied, which is the last of `state.skipped_steps`."""
    in_a_row = 0
    while state.step - in_a_row in state.skipped_steps:
        in_a_row += 1
    if in_a_row <= policy.max_skipped_steps:
        return StepDecision.SKIP
    if state.rollbacks < policy.max_rollbacks and has_checkpoint:
        return StepDecision.GO_BACK
    return StepDecision.STOP


def remember_loss(state: TrainState, loss: float) -> None:
    old = state.typical_loss
    state.typical_loss = loss if old is None else LOSS_MEMORY * old + (1 - LOSS_MEMORY) * loss


# The learning-rate schedule: a pure function of the step, so that checkpoints need no scheduler state.


def learning_rate_share(schedule: Schedule, step: int, num_steps: int) -> float:
    """Share of the peak learning rate at `step` (from 0): linear warm-up to 1, then decay to final_share."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.type == "constant":
        return 1.0
    if schedule.type == "wsd":
        steps_left = num_steps - step
        steps_of_decay = max(1, round(schedule.decay_share * num_steps))
        return schedule.final_share + (1 - schedule.final_share) * min(1.0, steps_left / steps_of_decay)
    done = (step - schedule.warmup_steps) / max(1, num_steps - schedule.warmup_steps)
    falling = 0.5 * (1 + math.cos(math.pi * done)) if schedule.type == "cosine" else 1 - done
    return schedule.final_share + (1 - schedule.final_share) * falling


# Early stopping.


def is_improvement(stopping: EarlyStopping, state: TrainState, measured: HeldoutMeasure) -> bool:
    """Whether a measurement beats the best so far by more than the threshold. The first does; a later NaN does not."""
    if stopping.by == "score":
        score = measured.score or 0.0
        return state.best_score is None or score > state.best_score + stopping.threshold
    return state.best_loss is None or measured.loss < state.best_loss - stopping.threshold
