"""The keys of a job file by their dotted paths, found in a kind's JSON schema: what `explain` describes."""

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
    """One key of a job file, as one or several variants of a mapping have it."""

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
    """What a mapping may hold: one variant of a union, or the only form that there is."""

    tag: str
    """Value of `type`; empty if the mapping has no `type`."""
    schema: Schema

    def fields(self) -> Iterator[Key]:
        required = self.schema.get("required", ())
        for name, schema in self.schema["properties"].items():
            yield Key(name, schema, name in required, (self.tag,) if self.tag else ())


class Reference:
    """The JSON schema of one kind of job, with the ways through it."""

    def __init__(self, kind: str, spec: type[BaseModel]) -> None:
        self.kind = kind
        self.root: Schema = spec.model_json_schema()
        self.definitions: Schema = self.root.get("$defs", {})

    def find(self, path: Sequence[str]) -> list[Key]:
        """The keys at a path below the kind; several where variants differ. Numbers of list entries may be left out.

        Raises SpecError naming the nearest key.
        """
        found = [Key(self.kind, self.root, is_required=True)]
        for depth, part in enumerate(path):
            found = self._step(found, part, ".".join((self.kind, *path[:depth])))
        return found

    def models(self, schema: Schema) -> list[Model]:
        """The mappings that may stand at a key, also as entries of a list or under names of the user's own."""
        if "$ref" in schema:
            return self.models(self.resolved(schema))
        if "properties" in schema:
            return [Model(str(schema["properties"].get("type", {}).get("const", "")), schema)]
        inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), schema.get("items"), self.named_values(schema)]
        return [model for part in inner if isinstance(part, Mapping) for model in self.models(part)]

    def named_values(self, schema: Schema) -> Schema | None:
        """What stands under each name of a mapping whose names the user chooses; None if this is no such mapping."""
        schema = self.resolved(schema)
        branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
        inner = next((found for branch in branches if (found := self.named_values(branch)) is not None), None)
        values = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties", False))
        return inner if values is False else {} if values is True else values

    def resolved(self, schema: Schema) -> Schema:
        """The schema itself, where it only names a definition."""
        if "$ref" not in schema:
            return schema
        return self.definitions[schema["$ref"].rpartition("/")[2]]  # type: ignore[no-any-return]

    def _step(self, found: Sequence[Key], part: str, where: str) -> list[Key]:
        models = [(key, model) for key in found for model in self.models(key.schema)]
        variants = [(key, model) for key, model in models if model.tag == part and model.schema is not key.schema]
        chosen = [Key(key.name, model.schema, key.is_required, (part,)) for key, model in variants]
        keys = [key for _, model in models for key in model.fields()]
        if chosen or any(key.name == part for key in keys):
            return chosen or _merged(key for key in keys if key.name == part)
        if part.isdecimal():
            return list(found)
        values = [inner for key in found if (inner := self.named_values(key.schema)) is not None]
        if values:
            return [Key(part, values[0])]
        known = list(dict.fromkeys([key.name for key in keys] + [model.tag for _, model in models if model.tag]))
        if not known:
            raise SpecError(f"{where} has no keys below it", where=part, fix=f"Ask for `rayloom explain {where}`.")
        near = nearest(part, known).removeprefix("; d")
        raise SpecError(f"{where} has no key {part!r}", fix=f"D{near}" if near else f"Its keys: {', '.join(known)}.")


def _merged(keys: Iterator[Key]) -> list[Key]:
    """Keys that are the same in several variants, as one key with all their variants."""
    merged: list[Key] = []
    for key in keys:
        same = [k for k in merged if k.schema == key.schema and k.is_required == key.is_required]
        if same:
            merged[merged.index(same[0])] = replace(same[0], variants=(*same[0].variants, *key.variants))
        else:
            merged.append(key)
    return merged
