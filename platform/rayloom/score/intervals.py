"""How sure a score is: bootstrap intervals over the rows that it was measured on (Efron 1979).

Shapes: N rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95

Part = tuple[float, float]
"""What one row adds above and below the line of a score."""


@dataclass(frozen=True)
class Interval:
    """A score's 95 % interval."""

    low: float
    high: float

    def as_metrics(self) -> list[float]:
        return [round(self.low, 4), round(self.high, 4)]


def bootstrap(
    num_rows: int, score: Callable[[NDArray[np.int64]], float], seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """The interval of a score of rows by number. `score` is called with (N,) numbers, drawn with replacement."""
    random = np.random.default_rng(seed)
    found = [score(random.integers(0, num_rows, num_rows)) for _ in range(num_resamples)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(float(low), float(high))


def of_ratio(parts: Sequence[Part], seed: int = 0) -> Interval:
    """The interval of a score of rows: accuracy, where each row gives (1 or 0, 1); F1, where each gives (2 · right,
    found + support)."""
    array = np.asarray(parts, np.float64)
    return bootstrap(len(array), lambda rows: ratio(array[rows]), seed)


def of_difference(parts: Sequence[Part], others: Sequence[Part], seed: int = 0) -> Interval:
    """The interval of one score less another, both of the same rows, which are drawn together."""
    first, second = np.asarray(parts, np.float64), np.asarray(others, np.float64)
    return bootstrap(len(first), lambda rows: ratio(first[rows]) - ratio(second[rows]), seed)


def ratio(parts: Sequence[Part] | NDArray[np.float64]) -> float:
    """The score itself: all that stands above over all that stands below."""
    above, below = np.asarray(parts, np.float64).sum(axis=0)
    return float(above / below) if below else 0.0
