"""Lineage: an artifact's ancestors and children, the training job of its weights, and the base of an adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import fsspec

from rayloom.artifacts.manifest import MANIFEST_NAME, WORK_NAME, Manifest, Parent
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.specs.search.space import substituted


@dataclass(frozen=True)
class Ancestor:
    """One node of the lineage tree."""

    field: str
    """Dotted path of the reference in the child's spec; empty for the root."""
    id: str
    digest: str
    manifest: Manifest | None
    """None if it is no longer in the store."""
    parents: tuple[Ancestor, ...]
    is_changed: bool = False
    """The digest under this id in the store differs from the one that the child was made from."""


def lineage(store: Store, manifest: Manifest) -> Ancestor:
    """The tree of an artifact's ancestors, with the artifact as its root."""
    return Ancestor("", manifest.id, manifest.digest, manifest, _parents(store, manifest))


def _parents(store: Store, manifest: Manifest) -> tuple[Ancestor, ...]:
    return tuple(_ancestor(store, parent) for parent in manifest.parents)


def _ancestor(store: Store, parent: Parent) -> Ancestor:
    manifest = store.manifest(parent.name, parent.version)
    parents = _parents(store, manifest) if manifest is not None else ()
    changed = manifest is not None and manifest.digest != parent.digest
    return Ancestor(parent.field, f"{parent.name}@{parent.version}", parent.digest, manifest, parents, changed)


def children(manifest: Manifest, among: Iterable[Manifest]) -> list[Manifest]:
    """The artifacts that were made from this one directly."""
    return [other for other in among if any(_names(parent, manifest) for parent in other.parents)]


def _names(parent: Parent, manifest: Manifest) -> bool:
    return (parent.name, parent.version) == (manifest.name, manifest.version)


# The training job that made an artifact's weights: its own, or that of the best trial of a hyperparameter search.


def training_of(manifest: Manifest) -> dict[str, Any]:
    """The training spec as plain values; for an artifact that was not trained, its own spec."""
    if manifest.kind != "tune":
        return manifest.spec
    return substituted(manifest.spec["train"], manifest.metrics["best"]["values"])


def field_in_training(field: str) -> str:
    """The path of a reference in the training spec: a search's `train.base` is its trials' `base`, and so is the base
    that the import of an adapter names."""
    return field.removeprefix("train.") if field != "content.base" else "base"


# The base model of an adapter, as its training job recorded it.


def base_of(adapter: Artifact, named: Artifact | None, store: Store) -> Artifact:
    """The model that the adapter was trained on.

    `named`: the base that the job file gives, or None. Raises InputError if its weights are not those of the recorded
    base, if no base is known, or if the store no longer has it.
    """
    recorded = recorded_base(adapter)
    if named is not None:
        if recorded is not None and recorded.digest != named.manifest.digest:
            trained_on = f"{recorded.name}@{recorded.version}"
            what = f"{adapter.id} was trained on {trained_on}, and {named.id} has other weights"
            raise InputError(what, where="base", fix="Leave `base` out: the right one is found by itself.")
        return named
    if recorded is None:
        what = f"{adapter.id} does not say which model it was trained on"
        raise InputError(what, where=str(adapter.path), fix="Name that model with `base`.")
    manifest = store.manifest(recorded.name, recorded.version)
    if manifest is None:
        # The job may have run again under another version, such as with a newer stage: equal digests are equal weights.
        same = [other for other in store.versions(recorded.name) if other.digest == recorded.digest]
        if not same:
            what = f"The base of {adapter.id}, {recorded.name}@{recorded.version}, is no longer in the store"
            raise InputError(what, where=store.uri, fix="Run the job that makes it again.")
        manifest = same[-1]
    if manifest.digest != recorded.digest:
        what = f"{manifest.id} has other weights than when {adapter.id} was trained on it"
        raise InputError(what, where=store.uri, fix="Train the adapter again on this base.")
    return store.open(manifest)


def recorded_base(adapter: Artifact) -> Parent | None:
    parents = adapter.manifest.parents
    return next((parent for parent in parents if field_in_training(parent.field) == "base"), None)


# Verifies an artifact's files in the store against the digests in its manifest.


def damage(store: Store, manifest: Manifest, on_bytes: Callable[[int], None] = lambda _: None) -> list[str]:
    """One line for every file that is missing, changed or not in the manifest; empty if there is none.

    `on_bytes` is called with the number of bytes of each read.
    """
    location = store.location(manifest.name, manifest.version)
    held = {stored.removeprefix(location).lstrip("/"): stored for stored in store.filesystem.find(location)}
    problems = []
    for file in manifest.files:
        stored = held.pop(file.path, None)
        if stored is None:
            problems.append(f"{file.path} is missing")
        elif (digest := _sha256(store.filesystem, stored, on_bytes)) != file.sha256:
            problems.append(f"{file.path} has changed: its SHA-256 is {digest[:12]}…, not {file.sha256[:12]}…")
    strangers = [path for path in held if path.partition("/")[0] not in (MANIFEST_NAME, WORK_NAME)]
    return problems + [f"{path} does not belong to it" for path in sorted(strangers)]


def _sha256(filesystem: fsspec.AbstractFileSystem, path: str, on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with filesystem.open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()
