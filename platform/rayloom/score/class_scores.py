"""Classification metrics: accuracy, precision, recall and F1 by class, macro and micro F1, and the confusion matrix.

Macro F1 averages over the classes that occur in the data or among the predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassScore:
    """Counts and scores of one class against all others."""

    right: int
    """True positives."""
    found: int
    """Predictions of this class."""
    support: int
    """Occurrences of this class in the data."""

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.support if self.support else 0.0

    @property
    def f1(self) -> float:
        total = self.found + self.support
        return 2 * self.right / total if total else 0.0

    def as_metrics(self) -> dict[str, Any]:
        return {
            "precision": round(self.precision, 4),
            "recall": round(self.recall, 4),
            "f1": round(self.f1, 4),
            "support": self.support,
        }


@dataclass(frozen=True)
class Scores:
    """Scores over all examples."""

    by_class: dict[str, ClassScore]
    num_right: int
    """Examples whose prediction is completely right."""
    num_answers: int

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_answers if self.num_answers else 0.0

    @property
    def macro_f1(self) -> float:
        occurring = [score for score in self.by_class.values() if score.found or score.support]
        return sum(score.f1 for score in occurring) / len(occurring) if occurring else 0.0

    @property
    def micro_f1(self) -> float:
        return self.total.f1

    @property
    def total(self) -> ClassScore:
        scores = self.by_class.values()
        return ClassScore(
            sum(score.right for score in scores),
            sum(score.found for score in scores),
            sum(score.support for score in scores),
        )


def scores(expected: Sequence[Collection[Any]], predicted: Sequence[Collection[Any]], classes: Sequence[str]) -> Scores:
    """Scores of predictions, each a set of items. An item is a class, or a tuple that ends in its class.

    A single label is a set of one item, several labels are a set of classes, entities a set of (start, end, class).
    """
    pairs = [(set(want), set(got)) for want, got in zip(expected, predicted, strict=True)]
    by_class = {}
    for name in classes:
        own = [({t for t in want if _class(t) == name}, {t for t in got if _class(t) == name}) for want, got in pairs]
        by_class[name] = ClassScore(
            sum(len(want & got) for want, got in own),
            sum(len(got) for _, got in own),
            sum(len(want) for want, _ in own),
        )
    return Scores(by_class, sum(want == got for want, got in pairs), len(pairs))


def _class(thing: Any) -> str:
    return str(thing[-1]) if isinstance(thing, tuple) else str(thing)


def confusion(expected: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> list[list[int]]:
    """The confusion matrix: [expected][predicted] counts, in the order of `classes`."""
    number = {name: index for index, name in enumerate(classes)}
    matrix = [[0] * len(classes) for _ in classes]
    for want, got in zip(expected, predicted, strict=True):
        matrix[number[want]][number[got]] += 1
    return matrix


# Confidence intervals of scores, by bootstrap over the rows that they were measured on (Efron 1979).
#
# Shapes: N rows, R resamples.

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
    resampled = [score(random.integers(0, num_rows, num_rows)) for _ in range(num_resamples)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
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
