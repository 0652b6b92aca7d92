"""What a sequence of trainings gave and took: average, transfer and forgetting, from a matrix of scores.

Shapes: T tasks, and as many stages. `scores[i][j]`: of task j after stage i, where larger is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Continual:
    """Means over tasks. Transfer and forgetting need two stages."""

    average: float
    """Of all tasks after the last stage (Lopez-Paz & Ranzato 2017, arXiv:1706.08840, equation 2)."""
    backward_transfer: float
    """What later stages changed of a task, its own stage to the last; below 0 if it was forgotten (equation 3)."""
    forgetting: float
    """The best of a task before the last stage, less what is left of it (Chaudhry et al. 2018, arXiv:1801.10112,
    equation 3)."""
    forward_transfer: float | None
    """What earlier stages gave a task before its own, over a model that learned none (equation 4); None without
    that."""


def continual(scores: Sequence[Sequence[float]], before: Sequence[float] | None = None) -> Continual:
    """The measures of a matrix (T, T), T at least 2. `before`: (T,) scores of the model before the first stage."""
    last, earlier = scores[-1], range(len(scores) - 1)
    return Continual(
        average=fmean(last),
        backward_transfer=fmean(last[task] - scores[task][task] for task in earlier),
        forgetting=fmean(max(stage[task] for stage in scores[:-1]) - last[task] for task in earlier),
        forward_transfer=None
        if before is None
        else fmean(scores[task][task + 1] - before[task + 1] for task in earlier),
    )
