"""`rayloom schema KIND`."""

from __future__ import annotations

import argparse

from rayloom.commands.output import emit_json
from rayloom.errors import InputError
from rayloom.kinds import SPECS
from rayloom.specs.files.problems import nearest


def schema(options: argparse.Namespace) -> None:
    """Prints the JSON schema of a kind's job files."""
    spec = SPECS.get(options.kind)
    if spec is None:
        fix = f"The kinds are {', '.join(SPECS)}{nearest(options.kind, SPECS) or '.'}"
        raise InputError(f"{options.kind!r} is not a kind of job", fix=fix)
    emit_json({"$schema": "https://json-schema.org/draft/2020-12/schema"} | spec.model_json_schema())
