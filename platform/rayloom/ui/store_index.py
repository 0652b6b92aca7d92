"""What a store holds, kept in memory and read again cheaply: only what changed since the last reading is opened.

A page never waits for a whole store: a reading runs in a thread of its own, and pages show what is known. What was
read is also kept in this machine's cache folder, so that the next server begins with it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rayloom.artifacts.durable import appearing
from rayloom.artifacts.manifest import Manifest
from rayloom.artifacts.store import Store
from rayloom.errors import unwrapped
from rayloom.ui.store_scan import NameStamp, Versions, changed_names

FORMAT = 1
LOCAL_SECONDS, REMOTE_SECONDS = 2.0, 30.0
"""A reading that is younger than this is not repeated."""
REST = 9
"""So many times what a reading took passes before the next: listing 1,000 objects takes botocore 0.2 CPU seconds."""
SECONDS_BETWEEN_VIEWS = 0.5


class Entry(NamedTuple):
    """One finished artifact, in the little that lists and graphs need."""

    name: str
    version: str
    kind: str
    content: str
    created_at: str
    seconds: float
    size_bytes: int
    headline: str
    licences: tuple[str, ...]
    parents: tuple[tuple[str, str], ...]
    """Field of the spec and NAME@VERSION."""

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def searched(self) -> str:
        """The text in which words are looked for."""
        return f"{self.id} {self.kind} {self.content} {self.headline}".lower()


def entry_of(manifest: Manifest) -> Entry:
    return Entry(
        manifest.name,
        manifest.version,
        manifest.kind,
        manifest.content,
        manifest.created_at,
        manifest.seconds,
        manifest.size_bytes,
        manifest.headline[:500],
        manifest.licences,
        tuple((parent.field, f"{parent.name}@{parent.version}") for parent in manifest.parents),
    )


@dataclass(frozen=True)
class StoreView:
    """What was known of a store at one moment."""

    entries: tuple[Entry, ...] = ()
    """Newest first."""
    current: frozenset[str] = frozenset()
    """Ids that `artifact:NAME` means."""
    unfinished: tuple[tuple[str, str], ...] = ()
    """Name and version of folders without a manifest: being built, or left by a killed run."""
    damaged: Mapping[str, str] = field(default_factory=dict)
    """Why an artifact cannot be read, by id."""
    is_whole: bool = False
    """Whether the whole store was read; else these are those read so far."""
    problem: str = ""
    """Why the store could not be read the last time."""
    by_id: Mapping[str, Entry] = field(default_factory=dict)
    children: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids of the artifacts made from each, by its id."""

    def matching(self, words: str = "", kind: str = "", content: str = "", only_current: bool = False) -> list[Entry]:
        """The entries that have every word, newest first."""
        wanted = words.lower().split()
        return [
            entry
            for entry in self.entries
            if (not kind or entry.kind == kind)
            and (not content or entry.content == content)
            and (not only_current or entry.id in self.current)
            and all(word in entry.searched for word in wanted)
        ]


class StoreIndex:
    """The present view of a store; `view()` begins a new reading if the last is old."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._every_seconds = LOCAL_SECONDS if store.is_local else REMOTE_SECONDS
        self._names: dict[str, tuple[NameStamp, Versions[Entry]]] = {}
        self._view = StoreView()
        self._next_at = float("-inf")
        self._lock = threading.Lock()
        self._reading: threading.Thread | None = None
        readable = re.sub(r"[^\w.-]+", "-", store.uri)[-150:]
        self._file = store.cache / "ui" / f"{readable}.json"
        self._load()

    def view(self, wait_seconds: float = 0.3) -> StoreView:
        """What is known now, after waiting for so long at most for a reading."""
        with self._lock:
            if self._reading is None and time.monotonic() > self._next_at:
                self._reading = threading.Thread(target=self._read, name="store-index", daemon=True)
                self._reading.start()
            reading = self._reading
        if reading is not None:
            reading.join(wait_seconds)
        return self._view

    def read_now(self) -> StoreView:
        """The view after a whole reading."""
        self._next_at = float("-inf")
        self.view(wait_seconds=0)
        while (reading := self._reading) is not None:
            reading.join()
        return self._view

    def _read(self) -> None:
        began, is_first = time.monotonic(), not self._view.is_whole
        try:
            self._update()
        except Exception as error:  # noqa: BLE001 (whatever a store raises is shown, and tried again)
            self._view = replace(self._view, problem=str(unwrapped(error)))
        finally:
            now = time.monotonic()
            self._next_at = now + max(self._every_seconds, 0 if is_first else REST * (now - began))
            self._reading = None

    def _update(self) -> None:
        names, shown_at, has_changed = dict(self._names), time.monotonic(), False
        try:
            for name, stamp, versions in changed_names(self.store, self._names, entry_of):
                has_changed = True
                if versions is None:
                    names.pop(name, None)
                else:
                    names[name] = (stamp, versions)
                if not self._view.is_whole and time.monotonic() - shown_at > SECONDS_BETWEEN_VIEWS:
                    self._view, shown_at = _view_of(names, is_whole=False), time.monotonic()
        finally:
            self._names = names  # the reading after one that failed goes on from here
        if has_changed or not self._view.is_whole or self._view.problem:
            self._view = _view_of(names, is_whole=True)
        if has_changed:
            self._save()

    def _save(self) -> None:
        """A cache that cannot be written costs the next server a reading, nothing else."""
        names = {name: (stamp, versions.plain()) for name, (stamp, versions) in self._names.items()}
        try:
            with appearing(self._file) as unfinished:
                unfinished.write_text(json.dumps({"format": FORMAT, "uri": self.store.uri, "names": names}))
        except OSError:
            return

    def _load(self) -> None:
        try:
            kept = json.loads(self._file.read_text())
            if (kept["format"], kept["uri"]) == (FORMAT, self.store.uri):
                self._names = {
                    name: (tuple(stamp), Versions.from_plain(plain, _entry_from_plain))
                    for name, (stamp, plain) in kept["names"].items()
                }
        except (OSError, ValueError, KeyError, TypeError):
            self._names = {}
        if self._names:
            self._view = _view_of(self._names, is_whole=True)


def _entry_from_plain(values: list[Any]) -> Entry:
    kept = Entry._make(values)
    return kept._replace(licences=tuple(kept.licences), parents=tuple((field, id_) for field, id_ in kept.parents))


def _view_of(names: Mapping[str, tuple[NameStamp, Versions[Entry]]], is_whole: bool) -> StoreView:
    entries = sorted(
        (entry for _, versions in names.values() for entry in versions.finished.values()),
        key=lambda entry: (entry.created_at, entry.id),
        reverse=True,
    )
    children: dict[str, list[str]] = {}
    for entry in entries:
        for _, parent in entry.parents:
            children.setdefault(parent, []).append(entry.id)
    return StoreView(
        entries=tuple(entries),
        current=frozenset(_current(names)),
        unfinished=tuple((name, version) for name, (_, one) in names.items() for version in one.unfinished),
        damaged={f"{name}@{v}": why for name, (_, one) in names.items() for v, why in one.damaged.items()},
        is_whole=is_whole,
        by_id={entry.id: entry for entry in entries},
        children={parent: tuple(dict.fromkeys(ids)) for parent, ids in children.items()},
    )


def _current(names: Mapping[str, tuple[NameStamp, Versions[Entry]]]) -> Iterator[str]:
    """The version that each name points at, or else its newest."""
    for name, (_, versions) in names.items():
        if versions.current in versions.finished:
            yield f"{name}@{versions.current}"
        elif versions.finished:
            yield max(versions.finished.values(), key=lambda entry: entry.created_at).id


def choices(entries: Iterable[Entry], name: str) -> list[str]:
    """The values of a field, for a list to choose from."""
    return sorted({str(getattr(entry, name)) for entry in entries})
