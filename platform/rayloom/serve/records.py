"""Small JSON records that stand in a store beside its artifacts: API keys, and the services that run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rayloom.artifacts.durable import write_durably
from rayloom.artifacts.store import Store


def write(store: Store, folder: str, name: str, record: dict[str, Any]) -> None:
    """Replaces the record at once: a reader sees the old one or the new one."""
    text, place = json.dumps(record, indent=2), f"{store.root}/{folder}/{name}.json"
    if store.is_local:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        write_durably(Path(place), text)
    else:
        store.filesystem.pipe_file(place, text.encode())


def read(store: Store, folder: str, name: str) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(store.filesystem.cat_file(f"{store.root}/{folder}/{name}.json"))
    except FileNotFoundError:
        return None
    return record


def read_all(store: Store, folder: str) -> list[dict[str, Any]]:
    """Every record of a folder, by name."""
    place = f"{store.root}/{folder}"
    store.filesystem.invalidate_cache(place)
    if not store.filesystem.isdir(place):
        return []
    names = sorted(
        Path(str(path)).stem for path in store.filesystem.ls(place, detail=False) if str(path).endswith(".json")
    )
    found = [read(store, folder, name) for name in names]
    return [record for record in found if record is not None]


def remove(store: Store, folder: str, name: str) -> None:
    place = f"{store.root}/{folder}/{name}.json"
    if store.filesystem.exists(place):
        store.filesystem.rm_file(place)
