"""The store: a folder or object-store prefix that holds artifacts as NAME/VERSION/.

A version folder is an artifact only once it has a manifest. `NAME/current.json` says which version `artifact:NAME`
means: the one that a job made or found finished last, so that going back to an older spec goes back to its result.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
from pydantic import ValidationError

from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.manifest import MANIFEST_NAME, Manifest, file_entries
from rayloom.errors import InputError

CURRENT_NAME = "current.json"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact and the local folder that holds its files."""

    manifest: Manifest
    path: Path

    @property
    def id(self) -> str:
        return self.manifest.id


class Store:
    """Artifacts under one local folder or fsspec URI.

    Files of a remote artifact are fetched once a node into a cache folder named by digest, so that every process of the
    node reads the same copy.
    """

    def __init__(self, uri: str, cache: Path | None = None) -> None:
        self.filesystem, root = fsspec.core.url_to_fs(uri)
        self.is_local = "file" in _protocols(self.filesystem)
        self.root = str(Path(root).resolve()) if self.is_local else root.rstrip("/")
        self.uri = self.root if self.is_local else uri.rstrip("/")
        self.cache = cache or Path(os.environ.get("RAYLOOM_CACHE", "~/.cache/rayloom")).expanduser()

    @classmethod
    def beside(cls, directory: Path) -> Store:
        """The store that `RAYLOOM_STORE` names, else `.rayloom` in `directory` or the nearest folder above with one."""
        named = os.environ.get("RAYLOOM_STORE")
        if named:
            return cls(named)
        for folder in (directory, *directory.parents):
            if (folder / ".rayloom").is_dir():
                return cls(str(folder / ".rayloom"))
        return cls(str(directory / ".rayloom"))

    # -- where things are ------------------------------------------------------------------------------------------

    def location(self, name: str, version: str) -> str:
        return f"{self.root}/{name}/{version}"

    def building_directory(self, name: str, version: str) -> Path:
        """Local folder in which a version is made: its place in a local store, a staging folder for a remote one."""
        if self.is_local:
            return Path(self.location(name, version))
        return self.cache / "staging" / _safe(self.uri) / name / version

    # -- reading ---------------------------------------------------------------------------------------------------

    def manifest(self, name: str, version: str) -> Manifest | None:
        """The manifest of a finished version, or None. Raises InputError where it is damaged."""
        place = f"{self.location(name, version)}/{MANIFEST_NAME}"
        try:
            text = self.filesystem.cat_file(place)
        except FileNotFoundError:
            return None
        try:
            return Manifest.model_validate_json(text)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"]
            fix = f"Remove it with `rayloom artifacts gc {name}@{version}` and run its job again."
            raise InputError(f"The manifest of {name}@{version} is damaged: {said}", where=place, fix=fix) from None

    def manifests(self) -> Iterator[Manifest]:
        """Every finished artifact, by name and then by age."""
        for name in self._folders(self.root):
            yield from self.versions(name)

    def versions(self, name: str) -> list[Manifest]:
        """The finished versions of a name, oldest first."""
        found = [self.manifest(name, version) for version in self._folders(f"{self.root}/{name}")]
        return sorted((m for m in found if m is not None), key=lambda m: m.created_at)

    def resolve(self, reference: str) -> Manifest:
        """The manifest that NAME, NAME@VERSION (or its beginning), with or without `artifact:`, names."""
        name, _, version = reference.removeprefix("artifact:").partition("@")
        known = self.versions(name) if re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) else []
        if version:
            known = [manifest for manifest in known if manifest.version.startswith(version)]
        else:
            current = self._current_version(name)
            known = [manifest for manifest in known if manifest.version == current] or known
        if not known:
            names = ", ".join(self._folders(self.root)) or "nothing yet"
            fix = f"Run the job that makes it first, or check the name; the store holds: {names}."
            raise InputError(f"There is no artifact {reference}", where=self.uri, fix=fix)
        return known[-1]

    def open(self, manifest: Manifest) -> Artifact:
        """The artifact with its files on this machine's disk."""
        if self.is_local:
            return Artifact(manifest, Path(self.location(manifest.name, manifest.version)))
        target = self.cache / "artifacts" / manifest.digest
        with exclusive(target.with_suffix(".lock")):
            if not (target / MANIFEST_NAME).exists():
                self._fetch(manifest, target)
        return Artifact(manifest, target)

    def _fetch(self, manifest: Manifest, target: Path) -> None:
        source = self.location(manifest.name, manifest.version)
        for file in manifest.files:
            place = target / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            self.filesystem.get_file(f"{source}/{file.path}", str(place))
        if file_entries(target) != manifest.files:
            fix = "Check it with `rayloom artifacts verify` and run its job again."
            raise InputError(f"{manifest.id} came damaged out of the store", where=self.uri, fix=fix)
        (target / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2))

    # -- writing ---------------------------------------------------------------------------------------------------

    def publish(self, directory: Path, manifest: Manifest) -> None:
        """Makes a finished folder an artifact: files first, the manifest last and at once, then `current`."""
        text = manifest.model_dump_json(indent=2)
        target = self.location(manifest.name, manifest.version)
        if self.is_local:
            _write_durably(directory / MANIFEST_NAME, text)
        else:
            for file in manifest.files:
                self.filesystem.makedirs(f"{target}/{file.path}".rsplit("/", 1)[0], exist_ok=True)
                self.filesystem.put_file(str(directory / file.path), f"{target}/{file.path}")
            self.filesystem.pipe_file(f"{target}/{MANIFEST_NAME}", text.encode())
        self.make_current(manifest)

    def make_current(self, manifest: Manifest) -> None:
        """From now on `artifact:NAME` means this version."""
        if self._current_version(manifest.name) == manifest.version:
            return
        place, text = f"{self.root}/{manifest.name}/{CURRENT_NAME}", json.dumps({"version": manifest.version})
        if self.is_local:
            _write_durably(Path(place), text)
        else:
            self.filesystem.pipe_file(place, text.encode())

    def remove(self, name: str, version: str) -> None:
        """Deletes a version, its manifest first, so that a half-deleted one is no artifact."""
        place = self.location(name, version)
        if self.filesystem.exists(f"{place}/{MANIFEST_NAME}"):
            self.filesystem.rm_file(f"{place}/{MANIFEST_NAME}")
        if self.filesystem.exists(place):
            self.filesystem.rm(place, recursive=True)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _current_version(self, name: str) -> str | None:
        try:
            text = self.filesystem.cat_file(f"{self.root}/{name}/{CURRENT_NAME}")
        except FileNotFoundError:
            return None
        return str(json.loads(text)["version"])

    def _folders(self, place: str) -> list[str]:
        if not self.filesystem.isdir(place):
            return []
        entries = self.filesystem.ls(place, detail=True)
        names = [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory"]
        return sorted(name for name in names if not name.startswith("."))


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _safe(uri: str) -> str:
    return re.sub(r"[^\w.-]+", "-", uri)


def _write_durably(path: Path, text: str) -> None:
    """Appears whole or not at all, also when the power goes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
