"""Which names of a store changed since it was last read, and their versions.

In a folder, making, publishing or removing a version changes its name's folder, so that one `stat` a name tells; only
versions that are being built are looked at each time. An object store is listed once, and its manifests are told apart
by size and time; those that are new are fetched many at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from rayloom.artifacts.manifest import MANIFEST_NAME, Manifest, parsed_manifest, version_in
from rayloom.artifacts.store import CURRENT_NAME, MISSING, Store
from rayloom.artifacts.transfer import read_all
from rayloom.errors import InputError

T = TypeVar("T")
NameStamp = tuple[str, ...]
"""Equal stamps mean that nothing changed below a name."""
Texts = Mapping[str, bytes | Exception]
"""What files hold, or why they could not be read, by path."""
NAMES_AT_ONCE = 100
"""Read in one go; what is known is shown in between."""
AreFinished = Mapping[str, bool]
"""The versions of a name, and whether each has a manifest."""


@dataclass
class Versions(Generic[T]):
    """The versions of one name."""

    current: str | None = None
    finished: dict[str, T] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)

    def plain(self) -> list[Any]:
        return [self.current, self.finished, self.unfinished, self.damaged]

    @classmethod
    def from_plain(cls, values: list[Any], entry: Callable[[list[Any]], T]) -> Versions[T]:
        current, finished, unfinished, damaged = values
        return cls(current, {version: entry(one) for version, one in finished.items()}, unfinished, damaged)


def changed_names(
    store: Store, known: Mapping[str, tuple[NameStamp, Versions[T]]], entry: Callable[[Manifest], T]
) -> Iterator[tuple[str, NameStamp, Versions[T] | None]]:
    """Name, stamp and versions of every name that is not as in `known`; None for versions if the name is gone.

    Raises InputError if there is no store.
    """
    stamps, versions_of = _in_folder(store, known) if store.is_local else _in_bucket(store)
    for name in known:
        if name not in stamps:
            yield name, (), None
    changed = [name for name, stamp in stamps.items() if name not in known or known[name][0] != stamp]
    for start in range(0, len(changed), NAMES_AT_ONCE):
        versions = {name: versions_of(name) for name in changed[start : start + NAMES_AT_ONCE]}
        paths = [path for name, made in versions.items() for path in _paths(store, name, made)]
        texts = read_all(store.filesystem, paths)
        for name, made in versions.items():
            yield name, stamps[name], _read(store, name, made, texts, entry)


def _paths(store: Store, name: str, versions: AreFinished) -> list[str]:
    """The files that say what there is of a name."""
    manifests = [store.manifest_path(name, version) for version, is_finished in versions.items() if is_finished]
    return [store.pointer_path(name), *manifests]


def _read(store: Store, name: str, versions: AreFinished, texts: Texts, entry: Callable[[Manifest], T]) -> Versions[T]:
    read = Versions[T]()
    try:
        path = store.pointer_path(name)
        pointer = _content(texts, path)
        read.current = None if pointer is None else version_in(pointer, name, path)
    except (InputError, OSError) as error:
        read.damaged[CURRENT_NAME] = str(error)
    for version, is_finished in versions.items():
        path = store.manifest_path(name, version)
        try:
            text = _content(texts, path) if is_finished else None
            if text is None:
                read.unfinished.append(version)
            else:
                read.finished[version] = entry(parsed_manifest(text, name, version, path))
        except (InputError, OSError) as error:
            read.damaged[version] = str(error)
    return read


def _content(texts: Texts, path: str) -> bytes | None:
    """What was read, or None if there is no such file. Raises what reading it raised."""
    found = texts[path]
    if isinstance(found, MISSING):
        return None
    if isinstance(found, Exception):
        raise found
    return found


Listing = tuple[dict[str, NameStamp], Callable[[str], AreFinished]]


def _in_folder(store: Store, known: Mapping[str, tuple[NameStamp, Versions[T]]]) -> Listing:
    root = Path(store.root)
    if not root.is_dir():
        fix = "Is its disk mounted? The first `rayloom run` makes it; --store names another one."
        raise InputError("There is no store here", where=str(root), fix=fix)

    def stamp(folder: Path) -> NameStamp:
        unfinished = known[folder.name][1].unfinished if folder.name in known else ()
        building = [f"{version}:{(folder / version / MANIFEST_NAME).exists()}" for version in unfinished]
        return (str(folder.stat().st_mtime_ns), *building)

    def versions_of(name: str) -> AreFinished:
        return {folder.name: (folder / MANIFEST_NAME).exists() for folder in _folders(root / name)}

    return {folder.name: stamp(folder) for folder in _folders(root)}, versions_of


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _in_bucket(store: Store) -> Listing:
    store.filesystem.invalidate_cache()
    stamps: dict[str, list[str]] = {}
    versions: dict[str, dict[str, bool]] = {}
    for path, facts in store.filesystem.find(store.root, detail=True).items():
        name, *below = path.removeprefix(store.root).lstrip("/").split("/")
        if name.startswith(".") or not below:
            continue
        written = stamps.setdefault(name, [])
        if below == [CURRENT_NAME] or below[1:] == [MANIFEST_NAME]:
            written.append(f"{'/'.join(below)}:{facts.get('size')}:{facts.get('ETag') or facts.get('LastModified')}")
        if len(below) > 1 and not below[0].startswith("."):
            made = versions.setdefault(name, {})
            made[below[0]] = made.get(below[0], False) or below[1:] == [MANIFEST_NAME]
    unfinished = {name: [v for v, is_made in made.items() if not is_made] for name, made in versions.items()}
    whole = {name: (*sorted(written), *sorted(unfinished.get(name, ()))) for name, written in stamps.items()}
    return whole, lambda name: versions.get(name, {})
