"""Verifies an artifact's files in the store against the digests in its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import fsspec

from rayloom.artifacts.manifest import MANIFEST_NAME, WORK_NAME, Manifest
from rayloom.artifacts.store import Store


def damage(store: Store, manifest: Manifest, on_bytes: Callable[[int], None] = lambda _: None) -> list[str]:
    """One line for every file that is missing, changed or not in the manifest; empty if there is none.

    `on_bytes` is called with the number of bytes of each read.
    """
    place = store.location(manifest.name, manifest.version)
    held = {found.removeprefix(place).lstrip("/"): found for found in store.filesystem.find(place)}
    said = []
    for file in manifest.files:
        found = held.pop(file.path, None)
        if found is None:
            said.append(f"{file.path} is missing")
        elif (digest := _sha256(store.filesystem, found, on_bytes)) != file.sha256:
            said.append(f"{file.path} has changed: its SHA-256 is {digest[:12]}…, not {file.sha256[:12]}…")
    strangers = [path for path in held if path.partition("/")[0] not in (MANIFEST_NAME, WORK_NAME)]
    return said + [f"{path} does not belong to it" for path in sorted(strangers)]


def _sha256(filesystem: fsspec.AbstractFileSystem, place: str, on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with filesystem.open(place, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()
