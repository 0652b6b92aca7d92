"""Rules between fields, checked also if some fields are wrong, so that all problems of a file come at once.

Pydantic runs a model's own validators only if every field of it is right, and stops at the first that fails. Here each
runs on an object that has the fields that are right and lacks the others. A validator that reads a missing field raises
AttributeError and is left out; the problems that the others find are certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from rayloom.specs.files.document import Path
from rayloom.specs.files.schema_walk import key_of, models_of, variant_of


def broken_rules(spec: type[BaseModel], values: dict[str, Any], broken: set[Path]) -> list[tuple[Path, str]]:
    """Path of the model and its validator's message, for every rule between fields that is certainly broken.

    `broken`: paths of the fields that are wrong by themselves, and of models whose own rules failed.
    """
    found: list[tuple[Path, str]] = []
    _built(spec, values, (), broken, found)
    return found


def _built(spec: type[BaseModel], values: dict[str, Any], path: Path, broken: set[Path], found: list[Any]) -> BaseModel:
    """The model with the fields that are right; its validators run if something in it is wrong."""
    fields: dict[str, Any] = {}
    missing = set()
    for name, info in spec.model_fields.items():
        key = key_of(name, info)
        here = (*path, key)
        is_wrong = any(place[: len(here)] == here for place in broken)
        if is_wrong and not _can_be_built(info.annotation, values.get(key)):
            missing.add(name)
        elif key in values:
            fields[name] = _value(info.annotation, values[key], here, broken, found)
        elif info.is_required():
            missing.add(name)
    built = spec.model_construct(**fields)
    for name in missing:
        built.__dict__.pop(name, None)
    if any(place[: len(path)] == path for place in broken):
        found += [(path, said) for said in _said(spec, built)]
    return built


def _said(spec: type[BaseModel], built: BaseModel) -> Iterator[str]:
    for validator in spec.__pydantic_decorators__.model_validators.values():
        if validator.info.mode == "after":
            try:
                validator.func(built)
            except ValueError as error:
                yield str(error)
            except AttributeError:
                continue  # it needs a field that is wrong or missing


def _value(annotation: Any, value: Any, path: Path, broken: set[Path], found: list[Any]) -> Any:
    variant = variant_of(annotation, value)
    if variant is not None:
        return _built(variant, value, path, broken, found)
    if isinstance(value, list):
        return tuple(_value(annotation, item, (*path, index), broken, found) for index, item in enumerate(value))
    return value


def _can_be_built(annotation: Any, value: Any) -> bool:
    """Whether a value that is partly wrong has parts that can be checked."""
    return variant_of(annotation, value) is not None or (isinstance(value, list) and bool(models_of(annotation)))
