"""The space of a search: dimensions over fields of a training job, and the check of their paths and values.

A point is what a searcher proposes: for each dimension a number, or the index of one of its choices. Its values are
those of the training job's fields, by dotted path.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from rayloom.specs.base import JobSpec, Spec
from rayloom.specs.files.document import YamlDocument
from rayloom.specs.files.problems import problems_of

Scalar = bool | int | float | str | None
Value = Scalar | tuple[Scalar, ...]
Number = int | float
Point = Mapping[str, Number]
"""A coordinate for each dimension: a number, or the index of the choice for choices and multiples."""
Values = dict[str, Any]
"""Values of the training job's fields, by dotted path."""

MOST_COMBINATIONS_CHECKED = 512


class Choice(Spec):
    """One of the listed values."""

    type: Literal["choice"]
    values: Annotated[tuple[Value, ...], Field(min_length=1)]
    """The values to choose from."""


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
    """One of the listed multiples of another field: of its searched value, or else of its value in the training job.

    `of` may name the field itself: a learning rate of 0.5, 1 or 2 times the one in the file.
    """

    type: Literal["multiple"]
    of: str
    """Dotted path into the training job."""
    times: Annotated[tuple[float, ...], Field(min_length=1)]
    """The factors to choose from."""
    to_whole: bool = False
    """Round the product to a whole number, for fields such as steps."""


Dimension = Annotated[Choice | Uniform | LogUniform | Integer | Multiple, Field(discriminator="type")]
Space = Annotated[dict[str, Dimension], Field(min_length=1)]


def value_at(job: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of plain values. Raises LookupError if there is none."""
    value: Any = job
    for key in path.split("."):
        if isinstance(value, list | tuple) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, Mapping) and key in value:
            value = value[key]
        else:
            raise LookupError(f"{path}: there is no such field in the training job")
    return value


def values_of(space: Mapping[str, Any], point: Point, job: Mapping[str, Any]) -> Values:
    """The values of a point; multiples come after the fields on which they depend."""
    values: Values = {}
    for path in dependency_order(space):
        dimension = space[path]
        if isinstance(dimension, Choice):
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
        ready = [path for path in waiting if _needs(space, path) in (None, *done)]
        if not ready:
            raise ValueError(f"these are multiples of each other in a circle: {', '.join(waiting)}")
        done.append(ready[0])
        waiting.remove(ready[0])
    return done


def _needs(space: Mapping[str, Any], path: str) -> str | None:
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
            raise LookupError(f"{path}: no such field, because {above} is {shown} in the training job")
    return plain


def refusals(spec: type[JobSpec], job: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """The loader's messages about values that the job does not accept; empty if it accepts all."""
    try:
        plain = substituted(job, values)
    except LookupError as error:
        return [str(error.args[0])]
    try:
        spec.model_validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        problems = problems_of(error.errors(include_url=False), YamlDocument("", plain), spec)
        return [problem.text.replace("(the file)", "the training job", 1) for problem in problems]
    return []


def space_problems(spec: type[JobSpec], job: Mapping[str, Any], space: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and reason of each problem of the space that the training job would refuse.

    Every value of a choice or multiple and both ends of a range are tried alone. Then combinations of them are tried,
    because there are rules between fields: all, or `MOST_COMBINATIONS_CHECKED` random ones if there are more.
    """
    try:
        dependency_order(space)
    except ValueError as error:
        yield next(iter(space)), str(error)
        return
    alone = [(path, reason) for path in space for reason in _refused_alone(spec, job, space, path)]
    alone += [(path, reason) for path in space for reason in _repeated(job, space, path)]
    yield from alone
    if not alone:
        yield from _refused_together(spec, job, space)


def _refused_alone(spec: type[JobSpec], job: Mapping[str, Any], space: Mapping[str, Any], path: str) -> Iterator[str]:
    try:
        probes = list(_probes(space[path]))
        tried = [values_of(_with_what_it_needs(space, path), _first_of(space) | {path: p}, job)[path] for p in probes]
    except LookupError as error:
        yield f"a multiple of {error.args[0]}"
        return
    except TypeError:
        yield f"{space[path].of} is not a number, so that there is no multiple of it"
        return
    reasons = dict.fromkeys(reason for value in tried for reason in refusals(spec, job, {path: value}))
    for reason in reasons:
        # A rule between fields can be satisfied if other fields of the space change too.
        if reason.startswith(path):
            yield reason.removeprefix(f"{path}: ")


def _repeated(job: Mapping[str, Any], space: Mapping[str, Any], path: str) -> Iterator[str]:
    """Each value that two choices or multiples give: the same trial would be trained twice."""
    dimension = space[path]
    if not isinstance(dimension, Choice | Multiple):
        return
    needed = _with_what_it_needs(space, path)
    others = [name for name in needed if name != path]
    for probes in _combinations([_probes(needed[name]) for name in others]):
        fixed = dict(zip(others, probes, strict=True))
        try:
            values = [values_of(needed, fixed | {path: probe}, job)[path] for probe in _probes(dimension)]
        except (LookupError, TypeError):  # reported by `_refused_alone`
            return
        texts = [json.dumps(value) for value in values]
        repeated = next((text for text in texts if texts.count(text) > 1), None)
        if repeated is not None:
            yield f"gives {repeated} {texts.count(repeated)} times, and each value is tried once: leave the others out"
            return


def _refused_together(
    spec: type[JobSpec], job: Mapping[str, Any], space: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for probes in _combinations([_probes(dimension) for dimension in space.values()]):
        values = values_of(space, dict(zip(space, probes, strict=True)), job)
        for reason in refusals(spec, job, values):
            assigned = ", ".join(f"{path} {value!r}" for path, value in values.items())
            yield next(iter(space)), f"together ({assigned}) these are refused: {reason}"
            return


def _combinations(probes: list[tuple[Number, ...]]) -> Iterator[tuple[Number, ...]]:
    if math.prod(map(len, probes)) <= MOST_COMBINATIONS_CHECKED:
        yield from itertools.product(*probes)
        return
    draw = random.Random(0)
    for _ in range(MOST_COMBINATIONS_CHECKED):
        yield tuple(draw.choice(choices) for choices in probes)


def _probes(dimension: Any) -> tuple[Number, ...]:
    """The coordinates of a dimension that are checked: every choice, or both ends of a range."""
    if isinstance(dimension, Choice):
        return tuple(range(len(dimension.values)))
    if isinstance(dimension, Multiple):
        return tuple(range(len(dimension.times)))
    return (dimension.low, dimension.high)


def _first_of(space: Mapping[str, Any]) -> dict[str, Number]:
    return {path: _probes(dimension)[0] for path, dimension in space.items()}


def _with_what_it_needs(space: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The part of the space on which the value at `path` depends."""
    needed = [path]
    while (other := _needs(space, needed[-1])) is not None:
        needed.append(other)
    return {name: space[name] for name in needed}
