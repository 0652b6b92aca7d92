"""Artifacts that are being made: the points of their training's log, and the trials of a search, as they come."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayloom.artifacts.lock import is_locked
from rayloom.artifacts.manifest import WORK_NAME
from rayloom.artifacts.store import Store
from rayloom.errors import InputError
from rayloom.tune.strategies.history import JOURNAL_NAME, Event, History, Trial
from rayloom.ui.drawing.curves import Charts
from rayloom.ui.workbench import Workbench

LOG_NAME = "metrics.jsonl"
MOST_TRIALS = 40
"""Curves of so many trials are drawn over each other, the newest."""
REMOTE_SECONDS = 1.5
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class WorkInProgress:
    """A version without a manifest."""

    name: str
    version: str
    is_locked: bool
    """Whether a process of this machine is building it; False for those of other machines too."""
    changed: float
    """When something was last written, in seconds since 1970."""
    has_trials: bool = False

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


def builds(store: Store, unfinished: Sequence[tuple[str, str]]) -> list[WorkInProgress]:
    """The versions that are not finished, the last written first."""
    found = [_build(store, name, version) for name, version in unfinished]
    return sorted(found, key=lambda build: (not build.is_locked, -build.changed))


def build_of(store: Store, name: str, version: str) -> WorkInProgress:
    """One of them. Raises InputError if it is none."""
    known = _NAME.fullmatch(name) and _NAME.fullmatch(version)
    if not known or not _work(store, name, version).is_dir():
        fix = "It may be finished: the list of artifacts has it then."
        raise InputError(f"{name}@{version} is not being made", where=store.uri, fix=fix)
    return _build(store, name, version)


def _build(store: Store, name: str, version: str) -> WorkInProgress:
    folder = store.building_directory(name, version)
    work = folder / WORK_NAME
    times = [path.stat().st_mtime for path in (folder, work, work / LOG_NAME, work / JOURNAL_NAME) if path.exists()]
    locked = is_locked(folder.parent / f".{version}.lock")
    return WorkInProgress(name, version, locked, max(times, default=0.0), (work / JOURNAL_NAME).exists())


def _work(store: Store, name: str, version: str) -> Path:
    return store.building_directory(name, version) / WORK_NAME


def charts_of(bench: Workbench, build: WorkInProgress) -> dict[str, Charts]:
    """The curves so far: of the training, or of each trial."""
    work = _work(bench.store, build.name, build.version)
    if not build.has_trials:
        return {"": bench.log(_log(bench.store, build, work)).charts}
    numbered = sorted(work.glob("trials/*/*/" + LOG_NAME))[-MOST_TRIALS:]
    return {f"trial {int(path.parts[-3])}": bench.log(path).charts for path in numbered if path.parts[-3].isdecimal()}


def _log(store: Store, build: WorkInProgress, work: Path) -> Path:
    """The log on this machine; one that only the store has is fetched every other second."""
    log = work / LOG_NAME
    if store.is_local or build.is_locked:
        return log
    copy = store.cache / "ui" / "logs" / f"{build.id}.jsonl"
    if not copy.exists() or time.time() - copy.stat().st_mtime > REMOTE_SECONDS:
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            store.filesystem.get_file(f"{store.location(build.name, build.version)}/{WORK_NAME}/{LOG_NAME}", str(copy))
        except FileNotFoundError:
            return log
    return copy


@dataclass
class LiveSearch:
    """A search's journal, read without touching it: its own reader cuts off a line that is being written."""

    history: History = field(default_factory=History)
    damage: str = ""

    @classmethod
    def read(cls, path: Path) -> LiveSearch:
        search = cls()
        try:
            content = path.read_bytes()
        except OSError:
            return search
        for line in content[: content.rfind(b"\n") + 1].splitlines():
            try:
                search.history.apply(Event(**json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                search.damage = f"The journal of the search is damaged: {error}"
                return search
        return search

    @property
    def trials(self) -> list[Trial]:
        return sorted(self.history.trials.values(), key=lambda trial: -trial.number)


def search_of(store: Store, build: WorkInProgress) -> LiveSearch:
    return LiveSearch.read(_work(store, build.name, build.version) / JOURNAL_NAME)
