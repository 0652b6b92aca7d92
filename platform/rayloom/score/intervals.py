"""Confidence intervals of scores, by bootstrap over the rows that they were measured on (Efron 1979).

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
"""What one row adds to numerator and denominator of a score."""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    def as_metrics(self) -> list[float]:
        return [round(self.low, 4), round(self.high, 4)]


def bootstrap(
    num_rows: int, score: Callable[[NDArray[np.int64]], float], seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """The interval of a score. `score` maps (N,) row numbers, drawn with replacement, to a value."""
    random = np.random.default_rng(seed)
    found = [score(random.integers(0, num_rows, num_rows)) for _ in range(num_resamples)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(float(low), float(high))


def of_ratio(parts: Sequence[Part], seed: int = 0) -> Interval:
    """The interval of `ratio`. Each row's part is (1 or 0, 1) for accuracy, (2 · right, found + support) for F1."""
    array = np.asarray(parts, np.float64)
    return bootstrap(len(array), lambda rows: ratio(array[rows]), seed)


def of_difference(parts: Sequence[Part], others: Sequence[Part], seed: int = 0) -> Interval:
    """The interval of the difference of two scores on the same rows (paired bootstrap)."""
    first, second = np.asarray(parts, np.float64), np.asarray(others, np.float64)
    return bootstrap(len(first), lambda rows: ratio(first[rows]) - ratio(second[rows]), seed)


def ratio(parts: Sequence[Part] | NDArray[np.float64]) -> float:
    """The score: sum of numerators / sum of denominators, 0 if that is 0."""
    above, below = np.asarray(parts, np.float64).sum(axis=0)
    return float(above / below) if below else 0.0
