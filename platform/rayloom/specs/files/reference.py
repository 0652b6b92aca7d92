"""The keys of a job file by dotted path, from the kind's JSON schema, for `rayloom explain`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from rayloom.errors import SpecError
from rayloom.specs.files.problems import nearest

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

    def __init__(self, kind: str, spec: type[BaseModel]) -> None:
        self.kind = kind
        self.root: Schema = spec.model_json_schema()
        self.definitions: Schema = self.root.get("$defs", {})

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
