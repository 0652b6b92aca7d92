"""The filesystem of a store, and files up to it and down from it, several at once in bounded memory.

S3 has a way of its own (`artifacts/s3.py`). fsspec moves up to 128 files at once, and may hold ten parts of 50 MiB of a
large one in memory: large files go two at a time, which takes 1 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import has_magic

from rayloom.artifacts import s3
from rayloom.artifacts.manifest import sha256_of
from rayloom.artifacts.s3 import Wanted
from rayloom.errors import InputError

LARGE_BYTES = 50 << 20
LARGE_AT_ONCE = 2


def upload(filesystem: fsspec.AbstractFileSystem, files: Sequence[tuple[Path, str]]) -> None:
    """Copies files of this machine to the store."""
    if s3.is_plain_s3(filesystem, [there for _, there in files]):
        s3.upload(filesystem, files)
        return
    large = [file for file in files if file[0].stat().st_size >= LARGE_BYTES]
    small = [file for file in files if file not in large]
    for some, bound in ((small, {}), (large, {"batch_size": LARGE_AT_ONCE})):
        if some:
            filesystem.put([str(here) for here, _ in some], [there for _, there in some], **_for(filesystem, bound))


def download(filesystem: fsspec.AbstractFileSystem, files: Sequence[Wanted]) -> list[Wanted]:
    """Copies files of the store to this machine. Returns those that came with another digest than they should have."""
    if s3.is_plain_s3(filesystem, [file.there for file in files]):
        return s3.download(filesystem, files)
    large = [file for file in files if file.size_bytes >= LARGE_BYTES]
    small = [file for file in files if file not in large]
    for some, bound in ((small, {}), (large, {"batch_size": LARGE_AT_ONCE})):
        if some:
            here = [str(file.here) for file in some]
            filesystem.get([file.there for file in some], here, **_for(filesystem, bound))
    return [file for file in files if file.sha256 and sha256_of(file.here) != file.sha256]


def read_all(filesystem: fsspec.AbstractFileSystem, paths: Sequence[str]) -> dict[str, bytes | Exception]:
    """Small files whole and as they are now, of an object store many at once; in place of one that fails, why it does.

    A request takes as long as the way there and back, so that thousands one after the other take minutes.
    """
    if filesystem.async_impl and not any(map(has_magic, paths)):  # it would take these for patterns
        return dict(filesystem.cat(list(paths), on_error="return", start=0)) if paths else {}
    found: dict[str, bytes | Exception] = {}
    for path in paths:
        try:
            found[path] = filesystem.cat_file(path, start=0)
        except OSError as error:
            found[path] = error
    return found


def _for(filesystem: fsspec.AbstractFileSystem, bound: dict[str, Any]) -> dict[str, Any]:
    """The bound, for filesystems that move several files at once."""
    return bound if getattr(filesystem, "async_impl", False) else {}


# The filesystem behind a URI.

_WITH_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})


def filesystem_of(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URI or folder, and the path in it. Raises InputError if there is none."""
    fix = "RAYLOOM_STORE takes a folder or a URI such as s3://bucket/prefix."
    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        what = f"This store needs a package that is not installed: {error}"
        raise InputError(what, where=uri, fix="Install it beside Rayloom.") from None
    except ValueError as error:
        raise InputError(f"This is no place for a store: {error}", where=uri, fix=fix) from None
    return filesystem, root


def protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    """The names of the filesystem's kind, such as `s3` and `s3a`."""
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def check_bucket(filesystem: fsspec.AbstractFileSystem, root: str, uri: str) -> None:
    """Raises InputError if the store is in a bucket that does not exist; folders in it are created when needed."""
    bucket = root.partition("/")[0]
    if not bucket or not set(protocols(filesystem)) & _WITH_BUCKETS:
        return
    try:
        filesystem.invalidate_cache()
        filesystem.ls(root)
    except FileNotFoundError:
        if bucket == root or not filesystem.exists(bucket):
            raise s3.no_bucket(bucket, uri) from None
