"""Points of a search space: random ones, those of a grid, neighbours, and the point of given values. Pure functions.

A point has one coordinate for each dimension: the number itself for ranges, the index of the choice for others.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from rayloom.specs.search.space import (
    Integer,
    Listed,
    LogUniform,
    Multiple,
    Number,
    Space,
    Values,
    dependency_order,
    num_values,
    value_at,
)

Draw = random.Random


def generator(seed: int, *parts: object) -> Draw:
    """A random number generator seeded by `seed` and `parts`, with the same numbers on every machine."""
    return random.Random(":".join(map(str, (seed, *parts))))


def drawn(space: Space, draw: Draw) -> dict[str, Number]:
    """A point drawn uniformly from choices and ranges; log-uniformly from LogUniform."""
    return {path: drawn_coordinate(dimension, draw) for path, dimension in space.items()}


def drawn_coordinate(dimension: Any, draw: Draw) -> Number:
    if isinstance(dimension, Listed | Multiple):
        return draw.randrange(num_values(dimension))
    if isinstance(dimension, Integer):
        return int(dimension.low + dimension.step * draw.randrange(num_values(dimension)))
    if isinstance(dimension, LogUniform):
        return rounded_into_range(dimension, math.exp(draw.uniform(math.log(dimension.low), math.log(dimension.high))))
    return rounded_into_range(dimension, draw.uniform(dimension.low, dimension.high))


def grid_size(space: Space) -> int:
    """The number of points of a grid over the space; 0 if a dimension is a range."""
    return math.prod(num_values(dimension) for dimension in space.values())


def grid_point(space: Space, number: int) -> dict[str, Number]:
    """The grid point with index `number`; the last dimension changes fastest."""
    point: dict[str, Number] = {}
    for path, dimension in reversed(space.items()):
        number, index = divmod(number, num_values(dimension))
        point[path] = dimension.low + dimension.step * index if isinstance(dimension, Integer) else index
    return {path: point[path] for path in space}


def perturbed(dimension: Any, coordinate: Number, factors: Sequence[float], draw: Draw) -> Number:
    """A perturbed coordinate: a neighbouring choice, or the number times one of the factors, clipped to the range."""
    if isinstance(dimension, Listed | Multiple):
        return min(max(int(coordinate) + draw.choice((-1, 1)), 0), num_values(dimension) - 1)
    changed = min(max(coordinate * draw.choice(factors), dimension.low), dimension.high)
    if isinstance(dimension, Integer):
        return int(dimension.low + dimension.step * round((changed - dimension.low) / dimension.step))
    return rounded_into_range(dimension, changed)


def point_of(space: Space, values: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Number] | None:
    """The point of this space that has these values, or None if there is none."""
    point: dict[str, Number] = {}
    for path in dependency_order(space):
        coordinate = None if path not in values else _coordinate(space[path], path, values, job)
        if coordinate is None:
            return None
        point[path] = coordinate
    return {path: point[path] for path in space}


def _coordinate(dimension: Any, path: str, values: Values | Mapping[str, Any], job: Mapping[str, Any]) -> Number | None:
    value = values[path]
    if isinstance(dimension, Listed):
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
    """Whether the choices of a dimension are increasing numbers, so that neighbours are similar."""
    if isinstance(dimension, Listed):
        numbers = [v for v in dimension.values if isinstance(v, int | float) and not isinstance(v, bool)]
        return len(numbers) == len(dimension.values) and numbers == sorted(numbers)
    return not isinstance(dimension, Multiple) or list(dimension.times) == sorted(dimension.times)


def rounded_into_range(dimension: Any, coordinate: Number) -> Number:
    """The coordinate clipped to its range; real numbers are rounded to four significant digits."""
    if isinstance(dimension, Listed | Multiple | Integer):
        return int(coordinate)
    low, high = float(dimension.low), float(dimension.high)
    return min(max(float(f"{coordinate:.4g}"), low), high)
