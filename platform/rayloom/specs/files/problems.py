"""All problems of a document in plain words: path, rule, value and the nearest valid word.

They are pydantic's errors, and broken rules between fields, which are checked even if other fields are wrong.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from rayloom.errors import nearest
from rayloom.specs.base import rule_of
from rayloom.specs.files.document import Path, Problem, YamlDocument, dotted
from rayloom.specs.files.schema_walk import Spot, bare, key_of, keys_of, locate, models_of, tags_of, variant_of

Context = Mapping[str, Any]

_CLOSE = 0.8
"""Similarity from which a word is suggested, if all choices are listed anyway."""
_MOST_KEYS = 12

_RULES: dict[str, Callable[[Context], str]] = {
    "missing": lambda _: "this key is missing",
    "int_type": lambda _: "must be a whole number",
    "int_parsing": lambda _: "must be a whole number",
    "int_from_float": lambda _: "must be a whole number",
    "float_type": lambda _: "must be a number",
    "finite_number": lambda _: "must be a finite number",
    "string_type": lambda _: "must be text",
    "bool_type": lambda _: "must be true or false",
    "model_type": lambda _: "must be a mapping of keys to values",
    "dict_type": lambda _: "must be a mapping of keys to values",
    "tuple_type": lambda _: "must be a list",
    "list_type": lambda _: "must be a list",
    "greater_than": lambda context: f"must be more than {context['gt']:g}",
    "greater_than_equal": lambda context: f"must be at least {_number(context['ge'])}",
    "less_than": lambda context: f"must be less than {context['lt']:g}",
    "less_than_equal": lambda context: f"must be at most {_number(context['le'])}",
    "too_short": lambda context: f"must have at least {_entries(context['min_length'])}",
    "too_long": lambda context: f"must have at most {_entries(context['max_length'])}",
    "string_too_short": lambda context: f"must have at least {context['min_length']} characters",
    "string_too_long": lambda context: f"must have at most {context['max_length']} characters",
    "value_error": lambda context: str(context["error"]),
}


def problems_of(details: Iterable[ErrorDetails], document: YamlDocument, root: type[BaseModel]) -> list[Problem]:
    """All problems of a document in the order of its lines, including those of rules between fields."""
    located = [(detail, locate(detail["loc"], root)) for detail in details]
    broken = {_place(detail, spot) for detail, spot in located} | _misspelt(located)
    ruled = [(spot, _rule(detail, spot), detail) for detail, spot in _without_echoes(located)]
    problems = [document.problem(_place(d, spot), _text(_place(d, spot), rule, d)) for spot, rule, d in _joined(ruled)]
    for path, rule in broken_rules(root, document.values, broken):
        problems.append(document.problem(path, f"{dotted(path) or '(the file)'}: {rule}"))
    return list(dict.fromkeys(problems))


def _place(detail: ErrorDetails, spot: Spot) -> Path:
    """The path of the problem; for an unknown variant of a union, the path of its `type`."""
    return (*spot.path, "type") if detail["type"].startswith("union_tag_") else spot.path


def _misspelt(errors: Iterable[tuple[ErrorDetails, Spot]]) -> set[Path]:
    """The known keys nearest to misspelt ones; these keys are not reported as missing."""
    meant = set()
    for detail, spot in errors:
        if detail["type"] == "extra_forbidden" and spot.owner is not None:
            near = difflib.get_close_matches(str(spot.path[-1]), keys_of(spot.owner), n=1)
            meant |= {(*spot.path[:-1], key) for key in near}
    return meant


def _without_echoes(errors: list[tuple[ErrorDetails, Spot]]) -> list[tuple[ErrorDetails, Spot]]:
    """The problems without those that only follow from others.

    Pydantic also calls a list "too short" if its entries are wrong. Of the branches of a union, only those that matched
    furthest are useful.
    """
    kept = []
    for detail, spot in errors:
        deeper = [s.path for _, s in errors if s.path[: len(spot.path)] == spot.path and len(s.path) > len(spot.path)]
        is_short_echo = detail["type"] == "too_short" and deeper
        is_branch_echo = spot.union_path == spot.path and deeper
        if not is_short_echo and not is_branch_echo:
            kept.append((detail, spot))
    return kept


def _joined(ruled: list[tuple[Spot, str, ErrorDetails]]) -> list[tuple[Spot, str, ErrorDetails]]:
    """The branches of one union as one problem: `must be a list, or must be 'all-linear'`."""
    kept: dict[object, tuple[Spot, str, ErrorDetails]] = {}
    for number, (spot, rule, detail) in enumerate(ruled):
        key = spot.path if spot.union_path == spot.path else number
        before = f"{kept[key][1]}, or " if key in kept else ""
        kept[key] = (spot, before + rule, detail)
    return list(kept.values())


def _rule(detail: ErrorDetails, spot: Spot) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(spot)
    if kind == "literal_error":
        return _choice(spot.annotation, detail["input"])
    if kind.startswith("union_tag_"):
        return _tag(detail, spot)
    if kind in ("model_type", "model_attributes_type", "dict_type") and detail["input"] in _tags_at(spot):
        return f"must be a mapping of keys to values: write {{type: {detail['input']}}}"
    if kind == "string_pattern_mismatch":
        return (spot.field and rule_of(spot.field)) or f"must match the pattern {context['pattern']}"
    if kind in _RULES:
        quotes = kind == "string_type" and isinstance(detail["input"], (bool, int, float))
        return _RULES[kind](context) + (": put it in quotes" if quotes else "")
    return detail["msg"]


def _unknown_key(spot: Spot) -> str:
    if spot.owner is None:
        return "unknown key"
    keys, tags = keys_of(spot.owner), tags_of(spot.owner)
    where = f" where type is {tags[0]}" if "type" in keys and tags else ""
    near = nearest(spot.path[-1], keys)
    listed = ", ".join(keys) if len(keys) <= _MOST_KEYS else f"{', '.join(keys[:_MOST_KEYS])} and more"
    return f"unknown key{where}" + (near or f"; the keys here are {listed}")


def _choice(annotation: Any, value: Any) -> str:
    annotation = bare(annotation)
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    return f"must be {_one_of(choices)}{nearest(value, [c for c in choices if isinstance(c, str)], _CLOSE)}"


def _tags_at(spot: Spot) -> list[str]:
    return [tag for model in models_of(spot.annotation) for tag in tags_of(model) if isinstance(tag, str)]


def _tag(detail: ErrorDetails, spot: Spot) -> str:
    tags = _tags_at(spot)
    if detail["type"] == "union_tag_not_found":
        return f"this key is missing; it must be {_one_of(tags)}"
    return f"must be {_one_of(tags)}{nearest(detail['input'].get('type'), tags, _CLOSE)}"


def _text(path: Path, rule: str, detail: ErrorDetails) -> str:
    value = detail["input"]
    if detail["type"] == "union_tag_invalid":
        value = value.get("type")
    is_said = detail["type"] in ("missing", "extra_forbidden", "union_tag_not_found") or isinstance(value, (dict, list))
    return f"{dotted(path) or '(the file)'}: {rule}" + ("" if is_said else f" (it is {_shown(value)})")


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _one_of(choices: Iterable[Any]) -> str:
    texts = [str(choice) for choice in choices] or ["one of the values that the schema names"]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# Rules between fields, checked even if some fields are wrong, so that all problems of a file are reported at once.
#
# Pydantic runs a model's validators only if all its fields are valid, and stops at the first that fails. Here each runs
# on an object that has only the valid fields. A validator that reads a missing field raises AttributeError and is
# skipped; problems that the others find are certain.


def broken_rules(spec: type[BaseModel], values: dict[str, Any], broken: set[Path]) -> list[tuple[Path, str]]:
    """Path of the model and message of its validator, for every rule between fields that is certainly broken.

    `broken`: paths of fields that are wrong by themselves, and of models whose own rules failed.
    """
    violations: list[tuple[Path, str]] = []
    _built(spec, values, (), broken, violations)
    return violations


def _built(
    spec: type[BaseModel], values: dict[str, Any], path: Path, broken: set[Path], violations: list[Any]
) -> BaseModel:
    """The model with its valid fields only; its validators are run if something in it is wrong."""
    fields: dict[str, Any] = {}
    missing = set()
    for name, info in spec.model_fields.items():
        key = key_of(name, info)
        here = (*path, key)
        is_wrong = any(wrong[: len(here)] == here for wrong in broken)
        if is_wrong and not _can_be_built(info.annotation, values.get(key)):
            missing.add(name)
        elif key in values:
            fields[name] = _value(info.annotation, values[key], here, broken, violations)
        elif info.is_required():
            missing.add(name)
    built = spec.model_construct(**{key_of(name, spec.model_fields[name]): value for name, value in fields.items()})
    for name in missing:
        built.__dict__.pop(name, None)
    if any(wrong[: len(path)] == path for wrong in broken):
        violations += [(path, message) for message in _failed_rules(spec, built)]
    return built


def _failed_rules(spec: type[BaseModel], built: BaseModel) -> Iterator[str]:
    for validator in spec.__pydantic_decorators__.model_validators.values():
        if validator.info.mode == "after":
            try:
                validator.func(built)
            except ValueError as error:
                yield str(error)
            except AttributeError:
                continue  # it needs a field that is wrong or missing


def _value(annotation: Any, value: Any, path: Path, broken: set[Path], violations: list[Any]) -> Any:
    variant = variant_of(annotation, value)
    if variant is not None:
        return _built(variant, value, path, broken, violations)
    if isinstance(value, list):
        return tuple(_value(annotation, item, (*path, index), broken, violations) for index, item in enumerate(value))
    return value


def _can_be_built(annotation: Any, value: Any) -> bool:
    """Whether the value has parts that can be checked although something in it is wrong."""
    return variant_of(annotation, value) is not None or (isinstance(value, list) and bool(models_of(annotation)))
