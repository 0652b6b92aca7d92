"""The store: a folder or object-store prefix that holds artifacts as NAME/VERSION/.

A version folder is an artifact only once it has a manifest. `NAME/current.json` holds the version that `artifact:NAME`
means: the one that a job last made or reused, so that running an older spec again makes its result current again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rayloom.artifacts.durable import flush, make_readable, write_durably
from rayloom.artifacts.lock import exclusive, leased
from rayloom.artifacts.manifest import MANIFEST_NAME, WORK_NAME, Manifest, parsed_manifest, version_in
from rayloom.artifacts.node_cache import STREAMED, StreamedFiles, cache_folder, fetch, keep_built
from rayloom.artifacts.transfer import check_bucket, filesystem_of, protocols, upload
from rayloom.errors import InputError, ResourceError

CURRENT_NAME = "current.json"
MISSING = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True)
class Artifact:
    """A finished artifact in its store. Sent to another node, it has that node's copy of the files."""

    manifest: Manifest
    store: Store = field(compare=False)

    @property
    def id(self) -> str:
        return self.manifest.id

    @cached_property
    def path(self) -> Path:
        """The local folder with the files. Those of a remote store are fetched at first use, once per node.

        Raises InputError if they came damaged out of the store.
        """
        return self.store.folder_of(self.manifest)

    @property
    def place(self) -> str:
        """Where it is in the store, for people."""
        return f"{self.store.uri}/{self.manifest.name}/{self.manifest.version}"

    def __reduce__(self) -> tuple[type[Artifact], tuple[Manifest, Store]]:
        """Pickles without the path, which is another one on another node."""
        return Artifact, (self.manifest, self.store)


class Store:
    """Artifacts under one local folder or fsspec URI.

    A remote artifact's files are fetched once per node, into a cache folder named by digest that all its processes
    share.
    """

    def __init__(self, uri: str, cache: Path | None = None) -> None:
        self.filesystem, root = filesystem_of(uri)
        self.is_local = "file" in protocols(self.filesystem)
        self.root = str(Path(root).resolve()) if self.is_local else root.rstrip("/")
        self.uri = self.root if self.is_local else uri.rstrip("/")
        self.cache = cache or cache_folder()

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        """Pickles the address only: each node has its own cache."""
        return Store, (self.uri,)

    @classmethod
    def beside(cls, directory: Path) -> Store:
        """The store that `RAYLOOM_STORE` names, else `.rayloom` in `directory` or the nearest folder above with one."""
        named = os.environ.get("RAYLOOM_STORE")
        if named:
            store = cls(named)
            check_bucket(store.filesystem, store.root, store.uri)
            return store
        for folder in (directory, *directory.parents):
            if (folder / ".rayloom").is_dir():
                return cls(str(folder / ".rayloom"))
        return cls(str(directory / ".rayloom"))

    # -- locations -------------------------------------------------------------------------------------------------

    def location(self, name: str, version: str) -> str:
        return f"{self.root}/{name}/{version}"

    def manifest_path(self, name: str, version: str) -> str:
        return f"{self.location(name, version)}/{MANIFEST_NAME}"

    def pointer_path(self, name: str) -> str:
        """The file that says which version `artifact:NAME` means."""
        return f"{self.root}/{name}/{CURRENT_NAME}"

    def building_directory(self, name: str, version: str) -> Path:
        """Local folder in which a version is built: its final folder in a local store, else a staging folder."""
        if self.is_local:
            return Path(self.location(name, version))
        return self.staging / name / version

    @property
    def staging(self) -> Path:
        """The folder in which this machine builds the artifacts of a remote store."""
        return self.cache / "staging" / _safe(self.uri)

    @property
    def log_directory(self) -> Path:
        """The folder of this machine's run logs."""
        return Path(self.root) / ".logs" if self.is_local else self.cache / "logs"

    @contextmanager
    def builder(self, name: str, version: str, on_wait: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """Makes this process the only builder of a version; yields a check that raises if it no longer is.

        A local folder (also one shared by NFS 4) uses the kernel's file lock; an object store also uses a lease.
        """
        directory = self.building_directory(name, version)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            fix = "Name a folder that you may write to with RAYLOOM_STORE (and RAYLOOM_CACHE for a remote store)."
            raise ResourceError(f"The store cannot be written to: {reason}", where=str(directory), fix=fix) from None
        with exclusive(directory.parent / f".{version}.lock", on_wait):
            if self.is_local:
                yield lambda: None
            else:
                with leased(self.filesystem, f"{self.root}/{name}/.{version}.lease", on_wait) as lease:
                    yield lease.check

    # -- reading ---------------------------------------------------------------------------------------------------

    def manifest(self, name: str, version: str) -> Manifest | None:
        """The manifest of a finished version, or None. Raises InputError if it is damaged."""
        path = self.manifest_path(name, version)
        try:
            text = self.read_now(path)
        except MISSING:
            return None
        return parsed_manifest(text, name, version, path)

    def names(self) -> list[str]:
        return self._folders(self.root)

    def folders(self, name: str) -> list[str]:
        """The versions of a name that have a folder, finished or not."""
        return self._folders(f"{self.root}/{name}")

    def manifests(self) -> Iterator[Manifest]:
        """Every finished artifact, by name and then by age. Raises InputError at a damaged one."""
        for name in self.names():
            yield from self.versions(name)

    def versions(self, name: str) -> list[Manifest]:
        """The finished versions of a name, oldest first."""
        manifests = [self.manifest(name, version) for version in self.folders(name)]
        return sorted((m for m in manifests if m is not None), key=lambda m: m.created_at)

    def resolve(self, reference: str) -> Manifest:
        """The manifest that NAME, NAME@VERSION (or its beginning), with or without `artifact:`, names."""
        name, _, version = reference.removeprefix("artifact:").partition("@")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
            known = []
        elif version:
            known = self._beginning_with(name, version, reference)
        else:
            current = self.current_version(name)
            pointed_at = self.manifest(name, current) if current else None
            known = [pointed_at] if pointed_at else self.versions(name)
        if not known:
            names = ", ".join(name for name in self.names() if self._is_made(name)) or "nothing yet"
            fix = f"Run the job that makes it first, or check the name; the store holds: {names}."
            raise InputError(f"There is no artifact {reference.removeprefix('artifact:')}", where=self.uri, fix=fix)
        return known[-1]

    def _is_made(self, name: str) -> bool:
        """Whether a version of this name is finished."""
        return any(self.filesystem.exists(f"{self.location(name, v)}/{MANIFEST_NAME}") for v in self.folders(name))

    def _beginning_with(self, name: str, version: str, reference: str) -> list[Manifest]:
        manifests = [self.manifest(name, folder) for folder in self.folders(name) if folder.startswith(version)]
        known = [manifest for manifest in manifests if manifest is not None]
        if len(known) > 1:
            ids = ", ".join(manifest.id for manifest in known)
            raise InputError(f"{reference} could be any of {ids}", where=self.uri, fix="Write more of the version.")
        return known

    def current_version(self, name: str) -> str | None:
        """The version that `artifact:NAME` means, or None if no job has set one."""
        path = self.pointer_path(name)
        try:
            return version_in(self.read_now(path), name, path)
        except MISSING:
            return None

    def open(self, manifest: Manifest) -> Artifact:
        """The artifact; its files are fetched when its path is first used."""
        return Artifact(manifest, self)

    def folder_of(self, manifest: Manifest) -> Path:
        """The artifact's files on this machine's disk, where those of a remote store are fetched once."""
        if self.is_local:
            return Path(self.location(manifest.name, manifest.version))
        copy = self._copy(manifest)
        fetch(manifest, self.filesystem, self.location(manifest.name, manifest.version), copy)
        return copy

    def streamed(self, manifest: Manifest) -> StreamedFiles:
        """Single files of an artifact in a remote store, each of which is on this node while it is used."""
        source = self.location(manifest.name, manifest.version)
        return StreamedFiles(manifest, self.filesystem, source, self._copy(manifest).with_suffix(STREAMED))

    def _copy(self, manifest: Manifest) -> Path:
        """This node's copy of a remote artifact's files."""
        return self.cache / "artifacts" / manifest.digest

    # -- writing ---------------------------------------------------------------------------------------------------

    def publish(
        self, directory: Path, manifest: Manifest, check_lease: Callable[[], None] = lambda: None, stored_in: str = ""
    ) -> None:
        """Makes a finished folder an artifact: files first, then the manifest atomically, then `current.json`.

        `check_lease` raises if this process is no longer the builder. `stored_in`: the folder in the copy of the work
        folder that has those files of the manifest that are not in `directory`.
        """
        text = manifest.model_dump_json(indent=2)
        here = [file for file in manifest.files if (directory / file.path).exists()]
        make_readable(directory / file.path for file in here)
        if self.is_local:
            for file in manifest.files:
                flush(directory / file.path)
            write_durably(directory / MANIFEST_NAME, text)
        else:
            target = self.location(manifest.name, manifest.version)
            check_lease()
            for folder in sorted({f"{target}/{file.path}".rsplit("/", 1)[0] for file in manifest.files} | {target}):
                self.filesystem.makedirs(folder, exist_ok=True)
            upload(self.filesystem, [(directory / file.path, f"{target}/{file.path}") for file in here])
            for file in manifest.files:
                if file not in here:
                    self.filesystem.cp_file(f"{target}/{WORK_NAME}/{stored_in}/{file.path}", f"{target}/{file.path}")
            check_lease()
            # Writes are atomic on object stores; on other filesystems only a rename is.
            self.filesystem.pipe_file(f"{target}/.{MANIFEST_NAME}", text.encode())
            self.filesystem.mv(f"{target}/.{MANIFEST_NAME}", f"{target}/{MANIFEST_NAME}")
            if len(here) == len(manifest.files):
                keep_built(manifest, directory, self._copy(manifest))
        self.make_current(manifest)

    def make_current(self, manifest: Manifest) -> None:
        """Makes `artifact:NAME` mean this version."""
        path, text = self.pointer_path(manifest.name), json.dumps({"version": manifest.version})
        with contextlib.suppress(FileNotFoundError):
            if self.read_now(path) == text.encode():
                return
        if self.is_local:
            write_durably(Path(path), text)
        else:
            self.filesystem.pipe_file(path, text.encode())

    def remove(self, name: str, version: str) -> None:
        """Deletes a version, its manifest first, so that a half-deleted one does not count as an artifact."""
        folder = self.location(name, version)
        if self.filesystem.exists(f"{folder}/{MANIFEST_NAME}"):
            self.filesystem.rm_file(f"{folder}/{MANIFEST_NAME}")
        if self.filesystem.exists(folder):
            self.filesystem.rm(folder, recursive=True)

    def read_now(self, path: str) -> bytes:
        """A whole file, as it is now. From byte 0 on: else s3fs asks its size first, of a listing that may be old."""
        return bytes(self.filesystem.cat_file(path, start=0))

    # -- internal --------------------------------------------------------------------------------------------------

    def _folders(self, folder: str) -> list[str]:
        self.filesystem.invalidate_cache(folder)
        if not self.filesystem.isdir(folder):
            return []
        entries = self.filesystem.ls(folder, detail=True)
        names = [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory"]
        return sorted(name for name in names if not name.startswith("."))


def _safe(uri: str) -> str:
    return re.sub(r"[^\w.-]+", "-", uri)
