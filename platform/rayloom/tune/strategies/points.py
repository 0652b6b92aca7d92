"""Points of a space: drawn, counted through, moved to a neighbour, and read back from values. Pure functions.

A point has a coordinate for each dimension: the number itself for ranges, the index of the choice for the others.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from rayloom.specs.search.space import (
    Choice,
    Integer,
    LogUniform,
    Multiple,
    Number,
    Space,
    Values,
    dependency_order,
    value_at,
)
from rayloom.specs.tune import num_values

Draw = random.Random


def generator(seed: int, *parts: object) -> Draw:
    """Random numbers that depend on the seed and the parts only, on every machine alike."""
    return random.Random(":".join(map(str, (seed, *parts))))


def drawn(space: Space, draw: Draw) -> dict[str, Number]:
    """A point drawn uniformly: each choice alike, each number of a range alike (or each power of ten)."""
    return {path: drawn_coordinate(dimension, draw) for path, dimension in space.items()}


def drawn_coordinate(dimension: Any, draw: Draw) -> Number:
    if isinstance(dimension, Choice | Multiple):
        return draw.randrange(num_values(dimension))
    if isinstance(dimension, Integer):
        return int(dimension.low + dimension.step * draw.randrange(num_values(dimension)))
    if isinstance(dimension, LogUniform):
        return rounded_into_range(dimension, math.exp(draw.uniform(math.log(dimension.low), math.log(dimension.high))))
    return rounded_into_range(dimension, draw.uniform(dimension.low, dimension.high))


def grid_size(space: Space) -> int:
    """How many points a grid over the space has; 0 where it has a range."""
    return math.prod(num_values(dimension) for dimension in space.values())


def grid_point(space: Space, number: int) -> dict[str, Number]:
    """The point of that number; the last dimension changes fastest."""
    point: dict[str, Number] = {}
    for path, dimension in reversed(space.items()):
        number, index = divmod(number, num_values(dimension))
        point[path] = dimension.low + dimension.step * index if isinstance(dimension, Integer) else index
    return {path: point[path] for path in space}


def perturbed(dimension: Any, coordinate: Number, factors: Sequence[float], draw: Draw) -> Number:
    """A coordinate nearby: a choice's neighbour, or a number times one of the factors, kept inside the range."""
    if isinstance(dimension, Choice | Multiple):
        return min(max(int(coordinate) + draw.choice((-1, 1)), 0), num_values(dimension) - 1)
    changed = min(max(coordinate * draw.choice(factors), dimension.low), dimension.high)
    if isinstance(dimension, Integer):
        return int(dimension.low + dimension.step * round((changed - dimension.low) / dimension.step))
    return rounded_into_range(dimension, changed)


def point_of(space: Space, values: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Number] | None:
    """The point that gives these values in this space, or None where none does."""
    point: dict[str, Number] = {}
    for path in dependency_order(space):
        coordinate = None if path not in values else _coordinate(space[path], path, values, job)
        if coordinate is None:
            return None
        point[path] = coordinate
    return {path: point[path] for path in space}


def _coordinate(dimension: Any, path: str, values: Values | Mapping[str, Any], job: Mapping[str, Any]) -> Number | None:
    value = values[path]
    if isinstance(dimension, Choice):
        plain = [list(choice) if isinstance(choice, tuple) else choice for choice in dimension.values]
        return plain.index(value) if value in plain else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(dimension, Multiple):
        whole = values[dimension.of] if dimension.of in values and dimension.of != path else value_at(job, dimension.of)
        fits = [i for i, times in enumerate(dimension.times) if math.isclose(whole * times, value, rel_tol=1e-9)]
        return fits[0] if fits else None
    is_inside: bool = dimension.low <= value <= dimension.high
    return value if is_inside else None


def is_ordered(dimension: Any) -> bool:
    """Whether the choices of a dimension are numbers that rise, so that neighbours are alike."""
    if isinstance(dimension, Choice):
        numbers = [v for v in dimension.values if isinstance(v, int | float) and not isinstance(v, bool)]
        return len(numbers) == len(dimension.values) and numbers == sorted(numbers)
    return not isinstance(dimension, Multiple) or list(dimension.times) == sorted(dimension.times)


def rounded_into_range(dimension: Any, coordinate: Number) -> Number:
    """A coordinate inside its range; numbers with four significant digits, which read well and are near enough."""
    if isinstance(dimension, Choice | Multiple | Integer):
        return int(coordinate)
    low, high = float(dimension.low), float(dimension.high)
    return min(max(float(f"{coordinate:.4g}"), low), high)
