"""The check of a search's space: values and combinations of them that the searched job would refuse."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from rayloom.specs.base import JobSpec
from rayloom.specs.files.document import YamlDocument
from rayloom.specs.files.problems import problems_of
from rayloom.specs.search.space import (
    Listed,
    Multiple,
    Number,
    dependency_order,
    needed_by,
    substituted,
    values_of,
)

MOST_COMBINATIONS_CHECKED = 512


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
        return [problem.text.replace("(the file)", "the job", 1) for problem in problems]
    return []


def space_problems(spec: type[JobSpec], job: Mapping[str, Any], space: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and reason of each problem of the space that the job would refuse.

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
    if not isinstance(dimension, Listed | Multiple):
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
    if isinstance(dimension, Listed):
        return tuple(range(len(dimension.values)))
    if isinstance(dimension, Multiple):
        return tuple(range(len(dimension.times)))
    return (dimension.low, dimension.high)


def _first_of(space: Mapping[str, Any]) -> dict[str, Number]:
    return {path: _probes(dimension)[0] for path, dimension in space.items()}


def _with_what_it_needs(space: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The part of the space on which the value at `path` depends."""
    needed = [path]
    while (other := needed_by(space, needed[-1])) is not None:
        needed.append(other)
    return {name: space[name] for name in needed}
