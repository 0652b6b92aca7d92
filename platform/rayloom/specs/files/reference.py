"""The keys of a job file by dotted path, from the kind's JSON schema, and what each means in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from rayloom.errors import SpecError, nearest

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """One key of a job file, which one or several variants of a mapping have."""

    name: str
    schema: Schema
    is_required: bool = False
    variants: tuple[str, ...] = ()
    """Values of `type` of the mappings that have it so; empty if there is only one mapping that it can stand in."""

    @property
    def description(self) -> str:
        return str(self.schema.get("description", ""))


@dataclass(frozen=True)
class Model:
    """The fields of a mapping: one variant of a union, or the only form."""

    tag: str
    """Value of `type`; empty if the mapping has no `type`."""
    schema: Schema

    def fields(self) -> Iterator[Key]:
        required = self.schema.get("required", ())
        for name, schema in self.schema["properties"].items():
            yield Key(name, schema, name in required, (self.tag,) if self.tag else ())


class Reference:
    """The JSON schema of one kind of job, with lookup by path."""

    def __init__(self, kind: str, schema: Schema) -> None:
        self.kind = kind
        self.root = schema
        self.definitions: Schema = schema.get("$defs", {})

    def find(self, path: Sequence[str]) -> list[Key]:
        """The keys at a path; several if variants differ. Indices of list entries can be left out.

        Raises SpecError with the nearest key if there is none.
        """
        keys = [Key(self.kind, self.root, is_required=True)]
        for depth, part in enumerate(path):
            keys = self._step(keys, part, ".".join((self.kind, *path[:depth])))
        return keys

    def models(self, schema: Schema) -> list[Model]:
        """The mappings allowed at a key, also as entries of a list or under names that the user chooses."""
        if "$ref" in schema:
            return self.models(self.resolved(schema))
        if "properties" in schema:
            return [Model(str(schema["properties"].get("type", {}).get("const", "")), schema)]
        inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), schema.get("items"), self.named_values(schema)]
        return [model for part in inner if isinstance(part, Mapping) for model in self.models(part)]

    def named_values(self, schema: Schema) -> Schema | None:
        """The schema of the values of a mapping whose names the user chooses; None if this is not such a mapping."""
        schema = self.resolved(schema)
        branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
        inner = next((named for branch in branches if (named := self.named_values(branch)) is not None), None)
        values = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties", False))
        return inner if values is False else {} if values is True else values

    def resolved(self, schema: Schema) -> Schema:
        """The definition that the schema refers to by `$ref`, or the schema itself."""
        if "$ref" not in schema:
            return schema
        return self.definitions[schema["$ref"].rpartition("/")[2]]  # type: ignore[no-any-return]

    def _step(self, above: Sequence[Key], part: str, where: str) -> list[Key]:
        models = [(key, model) for key in above for model in self.models(key.schema)]
        variants = [(key, model) for key, model in models if model.tag == part and model.schema is not key.schema]
        chosen = [Key(key.name, model.schema, key.is_required, (part,)) for key, model in variants]
        keys = [key for _, model in models for key in model.fields()]
        if chosen or any(key.name == part for key in keys):
            return chosen or _merged(key for key in keys if key.name == part)
        if part.isdecimal():
            return list(above)
        values = [inner for key in above if (inner := self.named_values(key.schema)) is not None]
        if values:
            return [Key(part, values[0])]
        known = list(dict.fromkeys([key.name for key in keys] + [model.tag for _, model in models if model.tag]))
        if not known:
            raise SpecError(f"{where} has no keys below it", where=part, fix=f"Ask for `rayloom explain {where}`.")
        near = nearest(part, known).removeprefix("; d")
        raise SpecError(f"{where} has no key {part!r}", fix=f"D{near}" if near else f"Its keys: {', '.join(known)}.")


def _merged(keys: Iterator[Key]) -> list[Key]:
    """The keys, with those that are equal in several variants merged into one."""
    merged: list[Key] = []
    for key in keys:
        same = [k for k in merged if k.schema == key.schema and k.is_required == key.is_required]
        if same:
            merged[merged.index(same[0])] = replace(same[0], variants=(*same[0].variants, *key.variants))
        else:
            merged.append(key)
    return merged


# A key in words: type, unit, default and first sentence, and an example of its value.

_COUNTED = (
    "tokens", "bytes", "seconds", "minutes", "hours", "steps", "epochs", "rows", "words", "characters", "documents",
    "requests", "replicas", "workers", "trials", "stages", "layers", "texts", "sentences", "clients", "restarts",
    "rollbacks", "rounds", "positions", "sequences",
)  # fmt: skip
_UNITS = {
    "share": "share of a whole, from 0 to 1",
    "probability": "share of a whole, from 0 to 1",
    "percentile": "per cent",
}
_SCALARS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
_BOUNDS = {
    "minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than",
}  # fmt: skip


def first_sentence(text: str) -> str:
    """The text up to its first full stop that ends a sentence, on one line."""
    line = " ".join(text.split())
    end = re.search(r"(?<!et al)(?<!ch)(?<!e\.g)(?<!i\.e)\.(?= [A-Z`]|$)", line)
    return line[: end.start()] + "." if end else line


def unit(key: Key) -> str:
    """The unit in a number's name: `tokens` for `sequence_length_tokens`; empty if it has none."""
    kinds = {branch.get("type") for branch in (key.schema, *key.schema.get("anyOf", ()))}
    return _unit(key.name) if kinds & {"integer", "number"} else ""


def _unit(name: str) -> str:
    counted = name.removeprefix("num_").replace("_", " ")
    over, per, whole = name.partition("_per_")
    if per:
        thing = over.rpartition("_")[2]
        return f"{thing.replace('cpus', 'CPUs').replace('gpus', 'GPUs')} per {whole.replace('_', ' ')}"
    last = name.rpartition("_")[2]
    return _UNITS.get(last) or (last if last in _COUNTED else counted if name.startswith("num_") else "")


def default(key: Key) -> str:
    """The value used if the key is left out."""
    if key.is_required:
        return "none; the key must be given"
    return flow(key.schema["default"]) if "default" in key.schema else "empty"


def type_words(schema: Schema, reference: Reference) -> str:
    """The values allowed at a key, such as `whole number, at least 1, or null`."""
    return ", or ".join(dict.fromkeys(_branches(schema, reference)))


def _branches(schema: Schema, reference: Reference) -> Iterator[str]:
    tags = [model.tag for model in reference.models(schema) if model.tag]
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if "$ref" in schema and len(tags) < 2:
        yield (
            "mapping"
            if "properties" in reference.resolved(schema)
            else type_words(reference.resolved(schema), reference)
        )
    elif schema.get("discriminator"):
        yield f"mapping whose type is {_listed(tags)}"
    elif branches:
        for branch in branches:
            yield from _branches(branch, reference)
    else:
        yield _plain(schema, reference)


def _plain(schema: Schema, reference: Reference) -> str:
    if "refersTo" in schema:
        return _reference_words(schema["refersTo"])
    if "const" in schema or "enum" in schema:
        return _listed([flow(value) for value in schema.get("enum", [schema.get("const")])])
    kind = schema.get("type")
    if kind == "array":
        least = f", at least {schema['minItems']}" if schema.get("minItems") else ""
        return f"list{least}, of entries: {type_words(schema.get('items', {}), reference)}"
    if kind == "object":
        values = reference.named_values(schema)
        inside = f": {type_words(values, reference)}" if values else ""
        return "mapping" if "properties" in schema else f"mapping with names of your own{inside}"
    if kind is None:
        return "any value"
    bounds = [f"{words} {flow(schema[key])}" for key, words in _BOUNDS.items() if key in schema]
    return ", ".join([_SCALARS[kind] + (f": {schema['rule']}" if "rule" in schema else ""), *bounds])


def _reference_words(contents: list[str]) -> str:
    from_outside = "model" in contents or "dataset" in contents
    forms = "artifact:NAME, hf://ORGANISATION/NAME or a path" if from_outside else "artifact:NAME"
    return f"{_listed(contents)}, as {forms}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int | None):
        return json.dumps(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def sample(key: Key, reference: Reference) -> Any:
    """An example of a valid value, from the key's schema; None if the schema does not say enough."""
    if key.schema.get("default"):
        return key.schema["default"]
    return _sample(key.schema, reference)


def _sample(schema: Schema, reference: Reference) -> Any:
    schema = reference.resolved(schema)
    if schema.get("examples"):
        return schema["examples"][0]
    if "properties" in schema:
        keys = schema["properties"]
        required = [*schema.get("required", ()), *(name for name, key in keys.items() if "givenUnless" in key)]
        inner = {name: _sample(keys[name], reference) for name in required}
        return None if None in inner.values() else inner
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if branches:
        return next((value for branch in branches if (value := _sample(branch, reference)) is not None), None)
    if "refersTo" in schema:
        return "artifact:NAME".lower().replace("name", "my-" + schema["refersTo"][0])
    if "const" in schema or "enum" in schema:
        return schema.get("const", (schema.get("enum") or [None])[0])
    return _sample_of_type(schema, reference)


def _sample_of_type(schema: Mapping[str, Any], reference: Reference) -> Any:
    kind = schema.get("type")
    if kind == "array":
        entry = _sample(schema.get("items", {}), reference)
        return None if entry is None else [entry]
    if kind == "integer":
        return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    if kind == "number":
        return schema.get("minimum", schema.get("maximum", schema.get("exclusiveMinimum", 0) + 0.1))
    return {"boolean": True}.get(str(kind))
