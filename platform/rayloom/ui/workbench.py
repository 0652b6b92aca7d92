"""What all pages share: the store, what was read of it, and what this server allows."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from starlette.requests import Request

from rayloom.artifacts.manifest import Manifest
from rayloom.artifacts.store import Store
from rayloom.errors import InputError
from rayloom.ui.drawing.curves import GrowingLog
from rayloom.ui.protection import Access
from rayloom.ui.reports import Reports
from rayloom.ui.rows.browsing import RowSources
from rayloom.ui.running.cluster_jobs import ClusterJobs
from rayloom.ui.store_index import StoreIndex

MOST_LOGS = 64
"""Training logs whose points are kept; each has at most some 2,000 points a line."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass
class Workbench:
    """One server's state."""

    store: Store
    access: Access
    cluster: str | None = None
    """Address of a Ray dashboard whose jobs are shown too."""
    folder: Path = field(default_factory=Path.cwd)
    """Where relative paths of job files that are written here start."""
    _logs: OrderedDict[Path, GrowingLog] = field(default_factory=OrderedDict)
    _reading: threading.Lock = field(default_factory=threading.Lock)
    """Pages are made in several threads, and a log is read on from where it was read before."""

    @cached_property
    def index(self) -> StoreIndex:
        return StoreIndex(self.store)

    @cached_property
    def reports(self) -> Reports:
        return Reports(self.store)

    @cached_property
    def cluster_jobs(self) -> ClusterJobs | None:
        return ClusterJobs(self.cluster) if self.cluster else None

    @cached_property
    def rows(self) -> RowSources:
        return RowSources(self.store)

    def manifest(self, name: str, version: str) -> Manifest:
        """The manifest of NAME@VERSION. Raises InputError if there is none, or if it is damaged."""
        view = self.index.view()
        damage = view.damaged.get(f"{name}@{version}")
        if damage is not None:
            raise InputError(damage)
        exact = self.store.manifest(name, version) if _NAME.fullmatch(name) and _NAME.fullmatch(version) else None
        if exact is not None:
            return exact
        beginning = [entry for entry in view.entries if entry.name == name and entry.version.startswith(version or "?")]
        found = self.store.manifest(name, beginning[0].version) if len(beginning) == 1 else None
        if found is None and view.problem:
            raise InputError(view.problem)
        if found is None:
            fix = "The list of artifacts has what there is; a version may be shortened while it is clear."
            raise InputError(f"There is no artifact {name}@{version}", where=self.store.uri, fix=fix)
        return found

    def log(self, path: Path) -> GrowingLog:
        """A training's log, read up to now."""
        with self._reading:
            return self._read(path)

    def _read(self, path: Path) -> GrowingLog:
        log = self._logs.setdefault(path, GrowingLog(path))
        self._logs.move_to_end(path)
        while len(self._logs) > MOST_LOGS:
            self._logs.popitem(last=False)
        return log.read()


def workbench(request: Request) -> Workbench:
    state: Workbench = request.app.state.workbench
    return state
