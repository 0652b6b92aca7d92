"""Removing versions from a store: those that the user names, and unfinished ones that killed runs left."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from rayloom.artifacts.lineage import children
from rayloom.artifacts.lock import is_locked
from rayloom.artifacts.manifest import Manifest
from rayloom.artifacts.store import Store
from rayloom.errors import InputError


@dataclass(frozen=True)
class Removal:
    """One version to remove, and why."""

    name: str
    version: str
    reason: str
    size_bytes: int

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


def named(store: Store, references: Sequence[str], force: bool) -> list[Removal]:
    """The removals for references NAME@VERSION. Raises InputError if one has children that stay, unless `force`."""
    manifests = [entry for _, entry in scan(store) if isinstance(entry, Manifest)]
    removals = [_named(store, reference) for reference in references]
    going = {removal.id for removal in removals}
    for removal in removals:
        own = [m for m in manifests if m.id == removal.id]
        staying = [child.id for manifest in own for child in children(manifest, manifests) if child.id not in going]
        if staying and not force:
            fix = "Remove those too, or add --force: they stay usable, but their lineage then has a gap."
            raise InputError(f"Others were made from {removal.id}: {', '.join(staying)}", where=store.uri, fix=fix)
    return removals


def _named(store: Store, reference: str) -> Removal:
    name, at, version = reference.removeprefix("artifact:").partition("@")
    if not at or not version:
        fix = "`rayloom artifacts list --all` shows the versions."
        raise InputError(f"{reference} names no version; write NAME@VERSION", where=store.uri, fix=fix)
    matching = [folder for folder in store.folders(name) if folder.startswith(version)] if name in store.names() else []
    if len(matching) != 1:
        what = f"{reference} could be any of {', '.join(matching)}" if matching else f"There is no artifact {reference}"
        raise InputError(what, where=store.uri, fix="`rayloom artifacts list --all` shows the versions.")
    return Removal(name, matching[0], "named", _size(store, name, matching[0]))


def unfinished(store: Store) -> list[Removal]:
    """Unfinished versions that no process is building, in the store and in this machine's staging folder."""
    removals = [
        Removal(name, version, "unfinished", _size(store, name, version))
        for (name, version), manifest in scan(store)
        if manifest is None and not _in_work(store, name, version)
    ]
    if not store.is_local:
        for folder in sorted(store.staging.glob("*/*")):
            if folder.is_dir() and not is_locked(folder.parent / f".{folder.name}.lock"):
                held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                removals.append(Removal(folder.parent.name, folder.name, "unfinished, on this machine", held))
    return removals


def scan(store: Store) -> list[tuple[tuple[str, str], Manifest | InputError | None]]:
    """Every version folder with its manifest, the error if that is damaged, or None if the version is not finished."""
    entries: list[tuple[tuple[str, str], Manifest | InputError | None]] = []
    for name in store.names():
        for version in store.folders(name):
            try:
                entries.append(((name, version), store.manifest(name, version)))
            except InputError as error:
                entries.append(((name, version), error))
    return entries


def remove(store: Store, removal: Removal) -> None:
    store.remove(removal.name, removal.version)
    if not store.is_local:
        shutil.rmtree(store.building_directory(removal.name, removal.version), ignore_errors=True)


def _in_work(store: Store, name: str, version: str) -> bool:
    if store.is_local:
        return is_locked(store.building_directory(name, version).parent / f".{version}.lock")
    return bool(store.filesystem.exists(f"{store.root}/{name}/.{version}.lease"))


def _size(store: Store, name: str, version: str) -> int:
    entries = store.filesystem.find(store.location(name, version), detail=True)
    return sum(facts["size"] for facts in entries.values())
