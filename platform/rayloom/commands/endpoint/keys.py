"""`rayloom keys`: API keys of the services of a store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rayloom.artifacts.store import Store
from rayloom.commands.output import console, emit_json, plain_table, when
from rayloom.observe.progress import say
from rayloom.serve import api_keys


def create(options: argparse.Namespace) -> int:
    """Prints the new key, and nothing else, on standard output."""
    key, secret = api_keys.create(_store(), options.name, options.requests_per_minute)
    sys.stdout.write(secret + "\n")
    say(f"key {key.id} for {key.name}: it is shown only this once; the store keeps a digest")
    return 0


def list_all(options: argparse.Namespace) -> int:
    keys = api_keys.listed(_store())
    if options.json:
        shown = ("id", "name", "created_at", "requests_per_minute", "revoked_at")
        emit_json([{name: getattr(key, name) for name in shown} for key in keys])
        return 0
    table = plain_table("id", "name", "created", "requests/min", "revoked")
    for key in keys:
        limit = str(key.requests_per_minute or "")
        table.add_row(key.id, key.name, when(key.created_at), limit, when(key.revoked_at or ""))
    console().print(table)
    return 0


def revoke(options: argparse.Namespace) -> int:
    key = api_keys.revoke(_store(), options.id)
    say(f"key {key.id} of {key.name} is no longer valid; running services refuse it within {api_keys.READ_SECONDS:g} s")
    return 0


def _store() -> Store:
    return Store.beside(Path.cwd())
