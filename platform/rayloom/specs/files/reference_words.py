"""Type, unit, default and first sentence of a key, in words, and an example of its value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from rayloom.specs.files.reference import Key, Reference, Schema

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
