"""Files at URIs, read without a copy, on any file system of fsspec: s3://, gs://, https://, zip://…::, file://.

Each file system finds credentials and endpoints in its own way (s3: AWS_* variables, ~/.aws).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import fsspec

from rayloom.errors import InputError
from rayloom.reading.hub import commit_of, hub_errors
from rayloom.reading.hub_datasets import HubRows, hub_uri_parts, rows_on_hub
from rayloom.specs.row_files import matches

_SIGNS = (
    "ETag", "etag", "blob_id", "checksum", "md5Hash", "CRC", "mtime", "LastModified", "last_modified", "date_time",
    "created",
)  # fmt: skip
"""Metadata keys of file systems that change with a file's content, the most reliable first."""
FIX = "Check the URI, the network and the credentials (of s3: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …)."


@dataclass(frozen=True)
class FileInPlace:
    """One file at a URI."""

    uri: str
    name: str
    """Path relative to the folder that was listed."""
    size_bytes: int
    """0 if the file system does not say."""
    stamp: str
    """A value that changes with the file's content, as far as the file system can tell."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the classes of columns that hold their numbers."""

    @property
    def commit(self) -> str:
        """Of a file of the hub, the commit at which it is read; empty for others."""
        return self.uri.partition("@")[2].partition("/")[0] if self.uri.startswith("hf://") else ""


def files_in_place(
    uri: str, pattern: str = "**", subset: str | None = None, split: str | None = None
) -> list[FileInPlace]:
    """The file that a URI names, or the files below it that match the pattern, sorted by name. Of a whole data set of
    the hub, the files of the subset and split, at the commit that its revision means now.

    Raises InputError if there is none or the file system cannot be reached.
    """
    if uri.startswith("hf://"):
        repository, revision, path = hub_uri_parts(uri)
        if not path:
            return _on_hub(uri, rows_on_hub(repository, revision, subset, split), pattern)
        if subset is not None or split is not None:
            fix = "Leave the path out of the URI, or subset and split."
            raise InputError("A path in the data set and its subset or split choose twice", where=uri, fix=fix)
        uri = f"hf://datasets/{repository}@{commit_of(repository, revision, 'dataset')}/{path}"
    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
        listing: dict[str, Mapping[str, Any]] = filesystem.find(root, detail=True)
        # A listing need not say how large files are (a web server's does not).
        listing = {
            path: filesystem.info(path) if facts.get("size") is None else facts for path, facts in listing.items()
        }
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"This place cannot be read: {error}", where=uri, fix=FIX) from None
    root = root.rstrip("/")
    named = {path: (path.removeprefix(root).strip("/") or path.rsplit("/", 1)[-1], listing[path]) for path in listing}
    fitting = {path: about for path, about in named.items() if path.rstrip("/") == root or matches(about[0], pattern)}
    if not fitting:
        known = ", ".join(sorted(name for name, _ in named.values())[:8]) or "no file at all"
        raise InputError(f"No file fits {pattern!r}", where=uri, fix=f"There is: {known}.")
    return [
        FileInPlace(_uri_of(uri, path), name, int(facts.get("size") or 0), _stamp(facts))
        for path, (name, facts) in sorted(fitting.items(), key=lambda item: item[1][0])
    ]


def _on_hub(uri: str, rows: HubRows, pattern: str) -> list[FileInPlace]:
    fitting = [path for path in rows.paths if matches(path, pattern)]
    if not fitting:
        known = ", ".join(rows.paths[:8])
        raise InputError(f"No file of its split {rows.split} fits {pattern!r}", where=uri, fix=f"There is: {known}.")
    with hub_errors(uri):
        listed = fsspec.filesystem("hf").find(rows.uri("").rstrip("/"), detail=True)
    facts = {f"hf://{path}": about for path, about in listed.items()}
    places = [(rows.uri(path), path) for path in fitting]
    return [
        FileInPlace(place, path, int(facts[place]["size"]), _stamp(facts[place]), rows.class_names)
        for place, path in places
    ]


def _uri_of(root: str, path: str) -> str:
    """The URI of a file below `root`. In a chained URI, the part after `::` (such as an archive's address) is kept."""
    if "://" in path:
        return path
    first, chain, rest = root.partition("::")
    protocol = first.partition("://")[0] if "://" in first else "file"
    return f"{protocol}://{path}{chain}{rest}"


def _stamp(facts: Mapping[str, Any]) -> str:
    sign = next((str(facts[name]) for name in _SIGNS if facts.get(name) is not None), "")
    return f"{facts.get('size')} {sign}"


def stamp_of_files(files: Iterable[FileInPlace]) -> str:
    """SHA-256 over the names, sizes and stamps of the files."""
    lines = [f"{file.name}\0{file.stamp}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def open_in_place(uri: str) -> tuple[IO[bytes], fsspec.AbstractFileSystem]:
    """The file, fetched as it is read, and its file system, which the caller must keep while reading (an archive's file
    system closes the archive). Raises InputError if the file cannot be opened."""
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        return filesystem.open(path, "rb"), filesystem
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"A source file cannot be read: {error}", where=uri, fix=FIX) from None
