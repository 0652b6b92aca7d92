"""Files of a repository of the Hugging Face hub at one commit; an interrupted download is resumed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rayloom.artifacts.manifest import MANIFEST_NAME, sha256_of
from rayloom.errors import InputError, ResourceError
from rayloom.observe.progress import progress, say
from rayloom.reading.files import format_of
from rayloom.reading.hub import MODEL_FILES, HubKind, commit_of, hub_api, hub_errors
from rayloom.reading.hub_datasets import licence_of, rows_on_hub
from rayloom.specs.ingest import DatasetContent, HubSource, ImportSpec, ModelContent
from rayloom.specs.row_files import matches
from rayloom.specs.training.prompted import SHOWN_FILE

KEPT = (*MODEL_FILES, "*.md", SHOWN_FILE)
"""The files of a model or adapter that an import takes."""
DOUBLES = ("consolidated*.safetensors",)
"""The same weights once more, for another library."""
PICKLED = tuple(f"**/*.{ending}" for ending in ("bin", "pt", "pth", "ckpt", "pkl", "pickle", "h5", "msgpack"))
CONFIGURATIONS = ("config.json", "adapter_config.json")
NUM_CONNECTIONS = 8
LONGEST_NAME_BYTES = 255
"""Of a file on Linux."""


@dataclass(frozen=True)
class HubFiles:
    """The files to fetch, and what is known of them."""

    commit: str
    paths: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For the manifest's metrics."""
    licence: str | None = None


def choice_of(spec: ImportSpec, source: HubSource) -> HubFiles:
    """What the import takes of the repository. Raises InputError or ResourceError as `hub_errors` does, and InputError
    if there is nothing to take or a subset or split must be named."""
    where = f"{source.repository}@{source.revision}"
    if isinstance(spec.content, DatasetContent) and source.patterns is None:
        rows = rows_on_hub(source.repository, source.revision, source.subset, source.split)
        if all(format_of(path) is None for path in rows.paths):
            kinds = ", ".join(sorted({PurePosixPath(path).suffix or path for path in rows.paths})[:8])
            what = f"The data set has no rows that can be read, but files of {kinds}"
            raise InputError(what, where=where, fix="Name its tables or texts with source.patterns, if it has any.")
        facts = {"source": {"commit": rows.commit, "subset": rows.subset, "split": rows.split}}
        return HubFiles(rows.commit, rows.paths, facts | {"class_names": rows.class_names}, rows.licence)
    kind: HubKind = "dataset" if isinstance(spec.content, DatasetContent) else "model"
    commit = commit_of(source.repository, source.revision, kind)
    with hub_errors(where):
        every = [str(path) for path in hub_api().list_repo_files(source.repository, revision=commit, repo_type=kind)]
    if isinstance(spec.content, ModelContent) and "adapter_config.json" in every and "config.json" not in every:
        fix = "Write content: {type: adapter, base: …}; where a job needs a model, name the result of a merge."
        raise InputError("The repository holds an adapter, not a model", where=where, fix=fix)
    paths = tuple(path for path in every if _is_taken(path, every, spec, source))
    if not paths:
        known = ", ".join(every[:8]) or "no file at all"
        raise InputError(
            "Nothing in the repository fits", where=where, fix=f"Correct source.patterns; it has: {known}."
        )
    return HubFiles(commit, paths, {"source": {"commit": commit}})


def _is_taken(path: str, every: Sequence[str], spec: ImportSpec, source: HubSource) -> bool:
    if any(matches(path, pattern) for pattern in PICKLED):
        return False
    if source.patterns is not None:
        return any(matches(path, pattern) for pattern in source.patterns)
    if isinstance(spec.content, ModelContent) and spec.content.format == "gguf":
        return path.endswith(".gguf")
    # A model that lies in a folder of its own is taken with all folders.
    is_at_top = any(name in every for name in CONFIGURATIONS)
    patterns = KEPT if is_at_top else [f"**/{pattern}" for pattern in KEPT]
    left_out = (*DOUBLES, MANIFEST_NAME)
    return any(matches(path, one) for one in patterns) and not any(matches(path, one) for one in left_out)


def fetch(spec: ImportSpec, source: HubSource, target: Path) -> HubFiles:
    """Downloads the files to `target`, each checked by its size and, if it is a large one, its SHA-256.

    Raises InputError or ResourceError; what was fetched stays for the next run.
    """
    choice = choice_of(spec, source)
    kind: HubKind = "dataset" if isinstance(spec.content, DatasetContent) else "model"
    for path in choice.paths:
        _check_name(path, source)
    with hub_errors(f"{source.repository}@{source.revision}"):
        listed = hub_api().list_repo_tree(source.repository, recursive=True, revision=choice.commit, repo_type=kind)
        wanted = set(choice.paths)
        files = {file.path: file for file in listed if file.path in wanted}
        size_bytes = sum(file.size for file in files.values())
        say(f"{source.repository}: {source.revision} is commit {choice.commit}, {len(files):,} files")
        _check_room(target, size_bytes, source)
        with progress(f"downloading {source.repository}", size_bytes, "bytes") as bar:

            def one(path: str) -> None:
                _fetched(files[path], source, kind, choice.commit, target)
                bar.advance(files[path].size)

            with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
                # The first error ends the download; files that wait are not begun.
                try:
                    for _ in pool.map(one, choice.paths):
                        pass
                finally:
                    pool.shutdown(cancel_futures=True)
    return choice if choice.licence else _with_licence(choice, source, kind, target)


def _fetched(file: Any, source: HubSource, kind: HubKind, commit: str, target: Path) -> None:
    file_path = Path(
        hub_api().hf_hub_download(source.repository, file.path, revision=commit, repo_type=kind, local_dir=target)
    )
    expected, actual = (file.lfs.sha256, sha256_of(file_path)) if file.lfs else (file.blob_id, _blob_id(file_path))
    if file_path.stat().st_size != file.size or expected != actual:
        file_path.unlink()
        what = f"{file.path} came with other bytes than the hub says it has"
        raise ResourceError(what, where=source.repository, fix="Run the same command again: it is fetched anew.")


def _blob_id(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _check_name(path: str, source: HubSource) -> None:
    parts = PurePosixPath(path).parts
    is_outside = path.startswith("/") or ".." in parts or "\\" in path or "\0" in path
    if is_outside or max(len(os.fsencode(part)) for part in parts) > LONGEST_NAME_BYTES:
        what = f"The repository has a file whose name is no path inside a folder: {path!r}"
        raise InputError(what, where=source.repository, fix="Leave it out with source.patterns.")


def _check_room(target: Path, size_bytes: int, source: HubSource) -> None:
    target.mkdir(parents=True, exist_ok=True)
    held = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    free = shutil.disk_usage(target).free
    if size_bytes - held > free:
        what = f"The files have {size_bytes:,} bytes, and the disk has {free:,} left"
        fix = "Free some space, put the store elsewhere, or read a data set in place: `uri: hf://datasets/…`."
        raise ResourceError(what, where=source.repository, fix=fix)


def _with_licence(choice: HubFiles, source: HubSource, kind: HubKind, target: Path) -> HubFiles:
    """The choice with the licence that the card names."""
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.repocard import metadata_load

    with hub_errors(source.repository):
        try:
            card = hub_api().hf_hub_download(
                source.repository, "README.md", revision=choice.commit, repo_type=kind, local_dir=target / ".cache"
            )
        except EntryNotFoundError:
            return choice
    try:
        head = metadata_load(card) or {}
    except ValueError:  # a card whose head is no YAML names no licence
        head = {}
    return HubFiles(choice.commit, choice.paths, choice.facts, licence_of(head))


def unique(licences: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({licence for licence in licences if licence}))
