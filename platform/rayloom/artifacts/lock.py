"""Locks that let one process build a version: a file lock on one machine, and a lease for an object store.

Both are released if their holder dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fsspec

from rayloom.errors import ResourceError


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock file `path`; calls `on_wait` once if another process holds it. The kernel releases it on death."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file."""
    try:
        file = path.open("r+")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# A lease for an object store, which several machines use and for which there is no kernel lock.
#
# The holder writes a small lease object and renews it. A waiter takes the lease over if the object has not changed for
# `LEASE_SECONDS` by the waiter's own clock: clocks need not agree, and a dead machine does not block others for long.
#
# Guarantee: if the filesystem creates objects exclusively (fsspec's `mode="create"` is a conditional put on S3 and
# Google Cloud Storage), there are two holders only if one of them could not reach the store, or was suspended, for
# longer than `LEASE_SECONDS`. Its next `check` raises; the store checks before it uploads files and again before it
# writes the manifest. If creation is not exclusive, the last writer holds the lease after `SETTLE_SECONDS`.
# Not guaranteed: that two machines never compute the same result. If both upload, the digests in the manifest show
# whose files are there (`rayloom artifacts verify`).

LEASE_SECONDS = 60.0
RENEW_SECONDS = 10.0
SETTLE_SECONDS = 0.5
"""How long a new lease must stay unchanged before it counts, for filesystems without exclusive creation."""
POLL_SECONDS = 1.0


@dataclass
class Lease:
    """A lease object and this process's token in it."""

    filesystem: fsspec.AbstractFileSystem
    path: str
    lease_seconds: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _ended: threading.Event = field(default_factory=threading.Event)
    _renewals: int = 0
    _renewed_at: float = 0.0

    def check(self) -> None:
        """Raises ResourceError if the lease object in the store is no longer this process's."""
        if _token(_read(self.filesystem, self.path)) != self.token:
            what = "Another machine took over making this artifact, because this one could not renew its lease in time"
            fix = "Run the command again: it uses the other's result, or continues from the work kept here."
            raise ResourceError(what, where=self.path, fix=fix)

    def _write(self, mode: str) -> None:
        self._renewals += 1
        record = {"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), "renewals": self._renewals}
        self.filesystem.pipe_file(self.path, json.dumps(record).encode(), mode=mode)
        self._renewed_at = time.monotonic()

    def take(self) -> bool:
        """Tries to become the holder; False if there is another."""
        try:
            self._write("create")
        except FileExistsError:
            return False
        time.sleep(SETTLE_SECONDS)
        return _token(_read(self.filesystem, self.path)) == self.token

    def renew_until_ended(self, every_seconds: float) -> None:
        """Renews the lease until `release`; ends without an error if it is lost, which the next `check` reports."""
        while not self._ended.wait(every_seconds):
            try:
                if _token(_read(self.filesystem, self.path)) != self.token:
                    return
                self._write("overwrite")
            except OSError:
                # The store is unreachable. After `lease_seconds` another may hold the lease: do not overwrite it.
                if time.monotonic() - self._renewed_at > self.lease_seconds:
                    return

    def release(self) -> None:
        self._ended.set()
        if _token(_read(self.filesystem, self.path)) == self.token:
            self.filesystem.rm_file(self.path)


@contextmanager
def leased(
    filesystem: fsspec.AbstractFileSystem,
    path: str,
    on_wait: Callable[[], None] = lambda: None,
    lease_seconds: float = LEASE_SECONDS,
    renew_seconds: float = RENEW_SECONDS,
) -> Iterator[Lease]:
    """Holds the lease object at `path`; calls `on_wait` once if another machine holds it."""
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    lease = Lease(filesystem, path, lease_seconds)
    if not lease.take():
        on_wait()
        while not lease.take():
            _await_end(filesystem, path, lease_seconds)
    renewal = threading.Thread(target=lease.renew_until_ended, args=(renew_seconds,), daemon=True)
    renewal.start()
    try:
        yield lease
    finally:
        lease.release()
        renewal.join()


def _await_end(filesystem: fsspec.AbstractFileSystem, path: str, lease_seconds: float) -> None:
    """Returns when the lease was released, or removed here because it was not renewed in time."""
    seen, changed_at = _read(filesystem, path), time.monotonic()
    while seen is not None:
        time.sleep(min(POLL_SECONDS, lease_seconds / 4))
        now = _read(filesystem, path)
        if now != seen:
            seen, changed_at = now, time.monotonic()
        elif time.monotonic() - changed_at > lease_seconds:
            filesystem.rm_file(path)
            return


def _read(filesystem: fsspec.AbstractFileSystem, path: str) -> bytes | None:
    filesystem.invalidate_cache()
    try:
        return bytes(filesystem.cat_file(path, start=0))
    except FileNotFoundError:
        return None


def _token(record: bytes | None) -> str | None:
    try:
        return str(json.loads(record)["token"]) if record else None
    except (ValueError, KeyError, TypeError):
        return None  # half-written, on a filesystem whose writes are not atomic
