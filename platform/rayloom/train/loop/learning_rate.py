"""The learning rate of a step: a pure function, so that a resumed run needs no scheduler's state."""

from __future__ import annotations

import math

from rayloom.specs.training.optimization import Schedule


def learning_rate_share(schedule: Schedule, step: int, num_steps: int) -> float:
    """Part of the peak learning rate at `step` (0 is the first): warm-up to 1, then the shape down to final_share."""
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
