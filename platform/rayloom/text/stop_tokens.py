"""The ids at which a server stops, by a model's generation_config.json."""

from __future__ import annotations

import json
from pathlib import Path

from rayloom.errors import InputError


def stop_tokens_of(generation_config: Path) -> list[int]:
    """The ids of `eos_token_id` of a generation_config.json, none where there is no such file.

    Raises InputError where the file says something else.
    """
    if not generation_config.exists():
        return []
    try:
        values = json.loads(generation_config.read_text(encoding="utf-8"))
    except ValueError as error:
        values = error
    named = values.get("eos_token_id") or [] if isinstance(values, dict) else values
    named = [named] if isinstance(named, int) else named
    if not isinstance(values, dict) or not isinstance(named, list) or not all(isinstance(id_, int) for id_ in named):
        what = f"generation_config.json must be an object with token ids under eos_token_id; it has {named!s:.80}"
        raise InputError(what, where=str(generation_config), fix="Correct the file, or fetch the model again.")
    return named
