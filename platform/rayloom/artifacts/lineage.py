"""What an artifact was made from, back to its sources, and what was made from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rayloom.artifacts.manifest import Manifest, Parent
from rayloom.artifacts.store import Store


@dataclass(frozen=True)
class Ancestor:
    """One node of the tree."""

    field: str
    """Where the child's spec named it; empty for the artifact itself."""
    id: str
    digest: str
    manifest: Manifest | None
    """None where it is no longer in the store."""
    parents: tuple[Ancestor, ...]
    is_changed: bool = False
    """The store holds another content under this id than the child was made from."""


def lineage(store: Store, manifest: Manifest) -> Ancestor:
    """The tree of everything that an artifact came from."""
    return Ancestor("", manifest.id, manifest.digest, manifest, _parents(store, manifest))


def _parents(store: Store, manifest: Manifest) -> tuple[Ancestor, ...]:
    return tuple(_ancestor(store, parent) for parent in manifest.parents)


def _ancestor(store: Store, parent: Parent) -> Ancestor:
    found = store.manifest(parent.name, parent.version)
    parents = _parents(store, found) if found is not None else ()
    changed = found is not None and found.digest != parent.digest
    return Ancestor(parent.field, f"{parent.name}@{parent.version}", parent.digest, found, parents, changed)


def children(manifest: Manifest, among: Iterable[Manifest]) -> list[Manifest]:
    """The artifacts that were made from this one directly."""
    return [other for other in among if any(_names(parent, manifest) for parent in other.parents)]


def _names(parent: Parent, manifest: Manifest) -> bool:
    return (parent.name, parent.version) == (manifest.name, manifest.version)
