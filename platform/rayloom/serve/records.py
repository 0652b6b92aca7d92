"""Small JSON records in a store, in addition to its artifacts: API keys, and the state of services."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayloom.artifacts.durable import write_durably
from rayloom.artifacts.store import Store
from rayloom.errors import InputError


def write(store: Store, folder: str, name: str, record: dict[str, Any]) -> None:
    """Writes a record atomically: a reader sees the old one or the new one."""
    text, path = json.dumps(record, indent=2), f"{store.root}/{folder}/{name}.json"
    if store.is_local:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_durably(Path(path), text)
    else:
        store.filesystem.pipe_file(path, text.encode())


def read(store: Store, folder: str, name: str) -> dict[str, Any] | None:
    """The record, or None if there is none. Raises InputError if it is damaged."""
    path = f"{store.root}/{folder}/{name}.json"
    try:
        record: dict[str, Any] = json.loads(store.read_now(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"This record is damaged ({error})", where=path, fix="Remove the file.") from None
    if not isinstance(record, dict):
        raise InputError("This record is damaged (it is no JSON object)", where=path, fix="Remove the file.")
    return record


def read_all(store: Store, folder: str, reject: Callable[[InputError], None] | None = None) -> list[dict[str, Any]]:
    """All records of a folder, sorted by name. `reject`: called for each damaged one; if None, it raises InputError."""
    path = f"{store.root}/{folder}"
    store.filesystem.invalidate_cache(path)
    try:  # not `isdir`, which also returns False if the store cannot be reached
        files = [str(file) for file in store.filesystem.ls(path, detail=False)]
    except FileNotFoundError:
        return []
    if files == [path]:
        raise NotADirectoryError(path)
    records = []
    for name in sorted(Path(file).stem for file in files if file.endswith(".json")):
        try:
            records.append(read(store, folder, name))
        except InputError as error:
            if reject is None:
                raise
            reject(error)
    return [record for record in records if record is not None]


def remove(store: Store, folder: str, name: str) -> None:
    path = f"{store.root}/{folder}/{name}.json"
    if store.filesystem.exists(path):
        store.filesystem.rm_file(path)
