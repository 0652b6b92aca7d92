"""The manifest of an artifact (content, origin, digests of all files), and stamps of inputs that are no artifact."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from rayloom.errors import InputError
from rayloom.specs.base import Content

MANIFEST_NAME = "manifest.json"
WORK_NAME = ".work"
"""Folder of resumable state inside an unfinished artifact; never part of the artifact."""


def _inside(path: str) -> str:
    """The path, checked: a manifest is untrusted input, so none of its files may lie outside the artifact's folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError(f"{path!r} is not a path inside the artifact")
    return path


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    path: Annotated[str, AfterValidator(_inside)]
    """Relative to the artifact's folder, with forward slashes."""
    size_bytes: int
    sha256: str


class Parent(BaseModel):
    """An artifact that this one was made from, and the field of the spec that names it."""

    model_config = ConfigDict(frozen=True)

    field: str
    """Dotted path of the reference in the spec."""
    name: str
    version: str
    digest: str


class Manifest(BaseModel):
    """`manifest.json`. It is written last: a folder without one is not an artifact."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    kind: str
    name: str
    version: str
    """First 12 hexadecimal digits of `fingerprint`."""
    content: Content
    created_at: str
    """UTC, ISO 8601."""
    seconds: float
    """Wall time of the run that finished it."""
    spec: dict[str, Any]
    stage_version: int
    parents: tuple[Parent, ...]
    outside: dict[str, str] = {}
    """Stamps of inputs that are not artifacts, by dotted path in the spec; before that of the hub's, its commit."""
    licences: tuple[str, ...]
    """Its own and those of all its ancestors."""
    code_version: str
    packages: dict[str, str]
    headline: str = ""
    """The result in one line, for tables: `perplexity 61.3 (unigram 702, bigram 148)`."""
    metrics: dict[str, Any]
    files: tuple[FileEntry, ...]

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> str:
        """SHA-256 over the files' paths and digests: equal digests mean equal bytes."""
        return digest_of(self.files)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class Outcome:
    """What a stage returns after it has written its files."""

    content: Content
    metrics: dict[str, Any] = field(default_factory=dict)
    """JSON values, nested as needed, with every number that the stage printed."""
    licences: tuple[str, ...] = ()
    headline: str = ""
    """The result in one line, for tables: `perplexity 61.3 (unigram 702, bigram 148)`."""
    stored: tuple[FileEntry, ...] = ()
    """Files of the artifact that another node wrote: they are in the store already, in `stored_in`."""
    stored_in: str = "result"
    """Path of their folder in the work folder."""


def parsed_manifest(text: bytes, name: str, version: str, where: str) -> Manifest:
    """The manifest that its file's content is. Raises InputError if it is damaged or another artifact's."""
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
    else:
        if (manifest.name, manifest.version) == (name, version):
            return manifest
        reason = f"it says that it is {manifest.id}"
    fix = f"Remove it with `rayloom artifacts gc {name}@{version}` and run its job again."
    raise InputError(f"The manifest of {name}@{version} is damaged: {reason}", where=where, fix=fix)


def version_in(pointer: bytes, name: str, where: str) -> str:
    """The version that the content of `current.json` names. Raises InputError if it is damaged."""
    try:
        return str(json.loads(pointer)["version"])
    except (ValueError, KeyError, TypeError):
        fix = "Remove this file; the next run of the job that makes it writes it anew."
        raise InputError(f"The pointer to the current {name} is damaged", where=where, fix=fix) from None


def digest_of(files: Iterable[FileEntry]) -> str:
    lines = sorted(f"{file.path}\0{file.size_bytes}\0{file.sha256}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_entries(directory: Path) -> tuple[FileEntry, ...]:
    """Size and digest of every file below `directory` by path, without the manifest and the work folder."""
    files = {path.relative_to(directory): path for path in directory.rglob("*") if path.is_file()}
    own = {name.as_posix(): path for name, path in files.items() if name.parts[0] not in (MANIFEST_NAME, WORK_NAME)}
    with ThreadPoolExecutor() as threads:  # hashing holds no lock of Python's
        digests = list(threads.map(sha256_of, own.values()))
    entries = [
        FileEntry(path=name, size_bytes=path.stat().st_size, sha256=digest)
        for (name, path), digest in zip(own.items(), digests, strict=True)
    ]
    return tuple(sorted(entries, key=lambda file: file.path))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(
    kind: str,
    spec: dict[str, Any],
    parents: Iterable[Parent],
    stage_version: int,
    outside: Mapping[str, str] | None = None,
) -> str:
    """SHA-256 over all inputs of a job, known before it runs: equal fingerprints mean the same work.

    `outside`: stamps of inputs that are not artifacts, such as a folder on a disk.
    """
    facts = {
        "kind": kind,
        "spec": spec,
        "parents": sorted((parent.field, parent.digest) for parent in parents),
        "stage_version": stage_version,
        "outside": dict(outside or {}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def stamp_of_path(path: Path) -> str:
    """SHA-256 over names, sizes and modification times of the files at `path`: tells cheaply whether they changed.

    A copy of the same files has another stamp: it is imported again, and gives an artifact with the same digest.
    Raises InputError as `files_below` does.
    """
    lines = []
    for file in files_below(path):
        facts = file.stat()
        lines.append(f"{file.relative_to(path).as_posix()}\0{facts.st_size}\0{facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# The files of a user's folder: symbolic links are followed, and what cannot be copied raises an error.


def files_below(folder: Path, without: Collection[str] = ()) -> list[Path]:
    """Every file at or below `folder`, sorted, also behind symbolic links to folders; paths are not resolved.

    `without`: names of folders to skip. Raises InputError for a dangling link, a link to a folder above it, an entry
    that is neither file nor folder, and a name that is not UTF-8.
    """
    return [folder] if folder.is_file() else sorted(_below(folder, without, (folder.resolve(),)))


def _below(folder: Path, without: Collection[str], above: tuple[Path, ...]) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _problem(f"This folder cannot be read ({error.strerror})", folder) from None
    for entry in entries:
        path = Path(entry.path)
        _check_name(path)
        if not path.exists():
            target = path.readlink() if path.is_symlink() else "it was removed meanwhile"
            raise _problem(f"This link leads nowhere ({_shown(target)})", path)
        if path.is_file():
            yield path
        elif not path.is_dir():
            raise _problem("This is neither a file nor a folder (but a pipe, a socket or a device)", path)
        elif entry.name not in without:
            real = path.resolve()
            if real in above:
                raise _problem(f"This link leads back into a folder above it ({real})", path)
            yield from _below(path, without, (*above, real))


def _check_name(path: Path) -> None:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise _problem("This file's name is not UTF-8", Path(_shown(path)), fix="Rename it.") from None


def _shown(path: str | Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _problem(what: str, path: Path, fix: str = "Remove it, or name a folder without it.") -> InputError:
    return InputError(what, where=str(path), fix=fix)
