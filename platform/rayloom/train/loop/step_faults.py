"""What to do about a step that went wrong: policies that return a decision; the loop alone acts on it."""

from __future__ import annotations

from enum import Enum

from rayloom.specs.training.endurance import Faults
from rayloom.train.state import TrainState

LOSS_MEMORY = 0.98
"""How much of the running mean of the loss each step keeps."""


class StepDecision(Enum):
    """What happens after a step that was not applied."""

    SKIP = "the step is left out and training goes on"
    GO_BACK = "training goes back to the last checkpoint, with a lower learning rate"
    STOP = "training stops"


def loss_limit(policy: Faults, state: TrainState) -> float:
    """The loss above which a step is not applied; NaN and infinity never are."""
    if policy.spike_factor is None or state.typical_loss is None:
        return float("inf")
    return state.typical_loss * policy.spike_factor


def after_bad_step(policy: Faults, state: TrainState, has_checkpoint: bool) -> StepDecision:
    """For a step that was not applied, which is the last of `state.skipped_steps`."""
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
