"""`rayloom schema KIND`: the JSON schema of a kind for editors, or its reference page for people."""

from __future__ import annotations

import argparse
import json
import sys

from rayloom.commands.explain import spec_of
from rayloom.kinds import SPECS
from rayloom.observe.progress import say


def schema(options: argparse.Namespace) -> None:
    """Prints what a kind's job files may hold, or writes it for every kind into a folder."""
    kinds = [options.kind] if options.kind else list(SPECS)
    for kind in kinds:
        text = _text(kind, options.markdown)
        if options.output is None:
            sys.stdout.write(text)
            continue
        options.output.mkdir(parents=True, exist_ok=True)
        file = options.output / f"{kind}.{'md' if options.markdown else 'json'}"
        file.write_text(text, encoding="utf-8")
        say(str(file))


def _text(kind: str, as_page: bool) -> str:
    spec = spec_of(kind)
    if as_page:
        from rayloom.commands.reference_page import page

        return page(kind, spec)
    values = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | spec.model_json_schema()
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
