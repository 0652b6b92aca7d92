"""The fields of a form for a job file, from the schema of its kind: type, unit, default and explanation of each."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayloom.specs.base import JobSpec
from rayloom.specs.files.reference import Key, Model, Reference, Schema, default, flow, type_words, unit

DEEPEST = 4
_NOT_GIVEN = object()


@dataclass(frozen=True)
class FormField:
    """One key."""

    path: str
    """Dotted, with numbers for entries of lists."""
    name: str
    kind: str
    """choice, text, or mapping."""
    text: str
    """The value as YAML; empty if it is not given."""
    is_given: bool
    is_required: bool
    words: str
    """Type in words."""
    default: str
    description: str
    choices: tuple[str, ...] = ()
    fields: tuple[FormField, ...] = field(default=())

    @property
    def id(self) -> str:
        return "field-" + self.path.replace(".", "-")


def form_of(kind: str, spec: type[JobSpec], values: Mapping[str, Any]) -> tuple[FormField, ...]:
    """The fields of a kind with the values of a job file."""
    reference = _reference(kind, spec)
    return _fields(reference.models(reference.root)[0], values, "", reference, 0)


@functools.cache
def _reference(kind: str, spec: type[JobSpec]) -> Reference:
    """Kept, since a form is made anew while one types."""
    return Reference(kind, spec.model_json_schema())


def _fields(model: Model, values: Any, above: str, reference: Reference, depth: int) -> tuple[FormField, ...]:
    given = values if isinstance(values, Mapping) else {}
    return tuple(
        _field(key, given.get(key.name, _NOT_GIVEN), f"{above}{key.name}", reference, depth)
        for key in model.fields()
        if not (key.name == "kind" and depth == 0)
    )


def _field(key: Key, value: Any, path: str, reference: Reference, depth: int) -> FormField:
    models = reference.models(key.schema)
    is_given = value is not _NOT_GIVEN
    is_list = _is_list(key.schema, reference)
    is_mapping = bool(models) and not is_list and reference.named_values(key.schema) is None and depth < DEEPEST
    inner = _inner(models, value, path, reference, depth) if is_mapping else ()
    choices = _choices(key.schema, reference)
    measured = f", {unit(key)}" if unit(key) else ""
    return FormField(
        path=path,
        name=key.name,
        kind="mapping" if inner else "choice" if choices else "text",
        text=flow(value) if is_given else "",
        is_given=is_given,
        is_required=key.is_required,
        words=type_words(key.schema, reference) + measured,
        default="" if key.is_required else default(key),
        description=" ".join((key.description or (models[0].schema.get("description", "") if models else "")).split()),
        choices=choices,
        fields=inner,
    )


def _inner(models: list[Model], value: Any, path: str, reference: Reference, depth: int) -> tuple[FormField, ...]:
    """The fields of a mapping: those of the variant that the value's `type` names; only `type` if it names none."""
    given = value if isinstance(value, Mapping) else {}
    tags = [model.tag for model in models if model.tag]
    if len(models) == 1:
        return _fields(models[0], given, f"{path}.", reference, depth + 1)
    if not tags:
        return ()
    chosen = next((model for model in models if model.tag == given.get("type")), None)
    text = str(given.get("type", ""))
    words = f"one of {', '.join(tags)}"
    described = "" if chosen is None else " ".join(chosen.schema.get("description", "").split())
    which = FormField(f"{path}.type", "type", "choice", text, bool(text), True, words, "", described, tuple(tags))
    rest = _fields(chosen, given, f"{path}.", reference, depth + 1) if chosen else ()
    return (which, *(one for one in rest if one.name != "type"))


def _is_list(schema: Schema, reference: Reference) -> bool:
    schema = reference.resolved(schema)
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return schema.get("type") == "array" or any(_is_list(branch, reference) for branch in branches)


def _choices(schema: Schema, reference: Reference) -> tuple[str, ...]:
    """The values of a key that has few: names, and true or false."""
    schema = reference.resolved(schema)
    if schema.get("type") == "boolean":
        return ("true", "false")
    if "enum" in schema or "const" in schema:
        return tuple(flow(value) for value in schema.get("enum", [schema.get("const")]))
    branches = [one for one in (*schema.get("anyOf", ()), *schema.get("oneOf", ())) if one.get("type") != "null"]
    return _choices(branches[0], reference) if len(branches) == 1 else ()
