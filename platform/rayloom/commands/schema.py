"""`rayloom schema KIND`: the JSON schema of a kind for editors, or its reference page in Markdown."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from rayloom.commands.explain import known
from rayloom.commands.shipped import starters_of
from rayloom.kinds import SPECS
from rayloom.observe.progress import say
from rayloom.specs.base import JobSpec
from rayloom.specs.files.reference import Key, Model, Reference, default, flow, type_words, unit


def schema(options: argparse.Namespace) -> None:
    """Prints a kind's schema or page, or writes those of every kind into a folder."""
    kinds = [options.kind] if options.kind else list(SPECS)
    for kind in kinds:
        spec = SPECS[known(kind)]
        text = page(kind, spec) if options.markdown else schema_text(spec)
        if options.output is None:
            sys.stdout.write(text)
            continue
        options.output.mkdir(parents=True, exist_ok=True)
        file = options.output / f"{kind}.{'md' if options.markdown else 'json'}"
        file.write_text(text, encoding="utf-8")
        say(str(file))


def schema_text(spec: type[JobSpec]) -> str:
    """The JSON schema as text, as it is kept under `jobs/reference/` for `rayloom explain` and editors."""
    values = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | spec.model_json_schema()
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


# The reference page of a kind in Markdown: `rayloom schema KIND --markdown`, kept under `jobs/reference/`.

_OTHER_JOBS = ("TrainSpec", "ServeSpec")
"""Titles of the schemas of jobs that a search holds: they have pages of their own and are not repeated."""


def page(kind: str, spec: type[JobSpec]) -> str:
    """The page: what the kind is for, a starter, and every key with type, unit, default and meaning."""
    reference = Reference(kind, spec.model_json_schema())
    root = reference.models(reference.root)[0]
    lines = [f"# kind: {kind}", "", _flat(root.schema["description"]), ""]
    for name, text in starters_of(kind).items():
        lines += [f"`rayloom init {name}` writes this starter:", "", "```yaml", text.rstrip(), "```", ""]
    lines += [f"## Keys of `{kind}`", "", *_table(root, reference)]
    for path, key, models in _sections(root, reference):
        lines += ["", f"## `{path}`", ""]
        lines += [_flat(key.description), ""] if key.description else []
        for model in models:
            lines += [f"### `type: {model.tag}`", ""] if len(models) > 1 else []
            lines += [_flat(model.schema.get("description", "")), "", *_table(model, reference), ""]
        lines.pop()
    lines += ["", "Written by `make reference` from the specs; change the descriptions there."]
    return "\n".join(lines) + "\n"


def _sections(root: Model, reference: Reference) -> Iterator[tuple[str, Key, list[Model]]]:
    """Path, key and models of every key whose value is a mapping; each model only at its first place."""
    waiting = [("", root)]
    seen: set[int] = set()
    while waiting:
        above, model = waiting.pop(0)
        for key in model.fields():
            path = f"{above}.{key.name}".lstrip(".")
            models = [variant for variant in reference.models(key.schema) if id(variant.schema) not in seen]
            if models and models[0].schema.get("title") not in _OTHER_JOBS:
                seen |= {id(variant.schema) for variant in models}
                yield path, key, models
                waiting += [(f"{path}.{variant.tag}" if variant.tag else path, variant) for variant in models]


def _table(model: Model, reference: Reference) -> list[str]:
    keys = list(model.fields())
    if [key.name for key in keys] == ["type"]:
        return ["It has no further keys."]
    rows = [f"| {' | '.join(_cell(part) for part in _row(key, reference))} |" for key in keys]
    return ["| key | type | default | meaning |", "|---|---|---|---|", *rows]


def _row(key: Key, reference: Reference) -> tuple[str, str, str, str]:
    only = reference.models(key.schema)
    text = key.description or (only[0].schema.get("description", "") if len(only) == 1 else "")
    measured = f" ({unit(key)})" if unit(key) else ""
    is_default_long = len(default(key)) > 60
    shown = "must be given" if key.is_required else "see below" if is_default_long else f"`{default(key)}`"
    if key.name in ("kind", "type") and "const" in key.schema:
        return f"`{key.name}`", f"`{flow(key.schema['const'])}`", shown, text
    return f"`{key.name}`", type_words(key.schema, reference) + measured, shown, _flat(text)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
