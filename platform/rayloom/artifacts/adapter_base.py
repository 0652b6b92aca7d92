"""The base of an adapter, found through what its training job recorded."""

from __future__ import annotations

from rayloom.artifacts.manifest import Parent
from rayloom.artifacts.store import Artifact, Store
from rayloom.artifacts.training import field_in_training
from rayloom.errors import InputError


def base_of(adapter: Artifact, named: Artifact | None, store: Store) -> Artifact:
    """The model that the adapter was trained on.

    `named`: the base that the job file gives, or None. Raises InputError where it is another model than the recorded
    one, or where neither is known.
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
        # Made again under another version, perhaps by a newer stage: equal digests are equal weights.
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
