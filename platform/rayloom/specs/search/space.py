"""The space of a search: dimensions over fields of the searched job, and the values of its points.

A point is what a searcher proposes: for each dimension a number, or the index of one of its choices. Its values are
those of the job's fields, by dotted path.
"""

import copy
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import ModelRef, Spec

Scalar = bool | int | float | str | None
Value = Scalar | tuple[Scalar, ...] | dict[str, Scalar | tuple[Scalar, ...]]
Number = int | float
Point = Mapping[str, Number]
"""A coordinate for each dimension: a number, or the index of the choice for choices and multiples."""
Values = dict[str, Any]
"""Values of the job's fields, by dotted path."""


class Listed(Spec):
    """Values to choose from, in the order of the file."""

    values: Annotated[tuple[Value, ...], Field(min_length=1)]
    """The values to choose from; for a field that is a mapping, mappings or null."""


class Choice(Listed):
    """One of the listed values."""

    type: Literal["choice"]


class ModelChoice(Listed):
    """One of the listed models, for the model of a served job: the original and what it was quantised to."""

    type: Literal["model"]
    values: Annotated[tuple[ModelRef, ...], Field(min_length=1)]
    """The models to choose from."""


class _Range(Spec):
    low: float
    """The smallest value."""
    high: float
    """The largest value."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.high <= self.low:
            raise ValueError("high must be more than low")
        return self


class Uniform(_Range):
    """Any number from low to high."""

    type: Literal["uniform"]


class LogUniform(_Range):
    """Any number from low to high, drawn uniformly on a logarithmic scale."""

    type: Literal["loguniform"]
    low: Annotated[float, Field(gt=0)]
    """The smallest value; more than 0."""


class Integer(Spec):
    """A whole number from low to high, both included."""

    type: Literal["integer"]
    low: int
    """The smallest value."""
    high: int
    """The largest value."""
    step: Annotated[int, Field(ge=1)] = 1
    """Distance between neighbouring values."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.high <= self.low:
            raise ValueError("high must be more than low")
        if (self.high - self.low) % self.step:
            raise ValueError(f"high is not reached from low in steps of {self.step}")
        return self


class Multiple(Spec):
    """One of the listed multiples of another field: of its searched value, or else of its value in the job.

    `of` may name the field itself: a learning rate of 0.5, 1 or 2 times the one in the file.
    """

    type: Literal["multiple"]
    of: str
    """Dotted path into the searched job."""
    times: Annotated[tuple[float, ...], Field(min_length=1)]
    """The factors to choose from."""
    to_whole: bool = False
    """Round the product to a whole number, for fields such as steps."""


Dimension = Annotated[Choice | ModelChoice | Uniform | LogUniform | Integer | Multiple, Field(discriminator="type")]
Space = Annotated[dict[str, Dimension], Field(min_length=1)]


def num_values(dimension: Any) -> int:
    """The number of values of a dimension; 0 for a range."""
    if isinstance(dimension, Listed):
        return len(dimension.values)
    if isinstance(dimension, Multiple):
        return len(dimension.times)
    return (dimension.high - dimension.low) // dimension.step + 1 if hasattr(dimension, "step") else 0


def value_at(job: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of plain values. Raises LookupError if there is none."""
    value: Any = job
    for key in path.split("."):
        if isinstance(value, list | tuple) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, Mapping) and key in value:
            value = value[key]
        else:
            raise LookupError(f"{path}: there is no such field in the job")
    return value


def values_of(space: Mapping[str, Any], point: Point, job: Mapping[str, Any]) -> Values:
    """The values of a point; multiples come after the fields on which they depend."""
    values: Values = {}
    for path in dependency_order(space):
        dimension = space[path]
        if isinstance(dimension, Listed):
            value = dimension.values[int(point[path])]
            values[path] = list(value) if isinstance(value, tuple) else value
        elif isinstance(dimension, Multiple):
            whole = values[dimension.of] if dimension.of in values else value_at(job, dimension.of)
            values[path] = _product(whole, dimension, int(point.get(path, 0)))
        else:
            values[path] = point[path]
    return values


def _product(whole: Any, dimension: Multiple, index: int) -> Number:
    product: float = whole * dimension.times[index]
    if dimension.to_whole:
        return round(product)
    # Whole results become integers (2 × 16 is 32); others are rounded, so that 0.1 × 3 is 0.3.
    return int(product) if product == int(product) else float(f"{product:.12g}")


def dependency_order(space: Mapping[str, Any]) -> list[str]:
    """The paths, each multiple after the field on which it depends. Raises ValueError if there is a cycle."""
    done: list[str] = []
    waiting = list(space)
    while waiting:
        ready = [path for path in waiting if needed_by(space, path) in (None, *done)]
        if not ready:
            raise ValueError(f"these are multiples of each other in a circle: {', '.join(waiting)}")
        done.append(ready[0])
        waiting.remove(ready[0])
    return done


def needed_by(space: Mapping[str, Any], path: str) -> str | None:
    """The path of the space of which the value at `path` is a multiple; None if there is none."""
    dimension = space[path]
    other = dimension.of if isinstance(dimension, Multiple) else None
    return other if other in space and other != path else None


def substituted(job: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain job with the values set at their dotted paths. Raises LookupError if a path does not exist."""
    plain = copy.deepcopy(dict(job))
    for path, value in values.items():
        above, _, last = path.rpartition(".")
        parent = value_at(plain, above) if above else plain
        if isinstance(parent, list) and last.isdecimal() and int(last) < len(parent):
            parent[int(last)] = value
        elif isinstance(parent, dict):
            parent[last] = value
        else:
            shown = "empty" if parent is None else repr(parent)
            raise LookupError(f"{path}: no such field, because {above} is {shown} in the job")
    return plain
