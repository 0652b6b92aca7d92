"""The filesystem behind the URI of a store."""

from __future__ import annotations

import fsspec

from rayloom.errors import InputError

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
            fix = "Make it, or correct RAYLOOM_STORE (and for S3 AWS_ENDPOINT_URL and AWS_DEFAULT_REGION)."
            raise InputError(f"There is no bucket {bucket}", where=uri, fix=fix) from None
