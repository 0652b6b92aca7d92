"""Publishes an artifact with its card: to a repository of the hub, in one commit, or to a folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError, ResourceError
from rayloom.export.model_card import Card, base_of_card, card_of, licences_that_forbid
from rayloom.models.adapters import OWN_CONFIG
from rayloom.reading.hub import MODEL_FILES, HubKind, hub_api, hub_errors
from rayloom.specs.row_files import matches
from rayloom.specs.training.prompted import SHOWN_FILE

CARD_NAME = "README.md"
NEEDED = {"model": ("config.json", "*.safetensors", "tokenizer*"), "adapter": ("adapter_config.json", "*.safetensors")}
_PATHS_INSIDE = ("base_model_name_or_path", "_name_or_path", "name_or_path")
"""Keys of configurations under which libraries write where they loaded from, such as a folder of the store."""


@dataclass(frozen=True)
class Publication:
    """What would be published: files by their name, and the card."""

    artifact: Artifact
    name: str
    kind: HubKind
    card: Card
    files: dict[str, Path | bytes]
    """A path of the artifact, or content that was rewritten."""
    lacks_demonstrations: bool
    """Whether the rows that its prompt shows stay behind."""

    @property
    def size_bytes(self) -> int:
        return sum(one.stat().st_size if isinstance(one, Path) else len(one) for one in self.files.values())


def publication(
    artifact: Artifact,
    store: Store,
    name: str,
    *,
    is_public: bool,
    licence: str | None,
    with_demonstrations: bool = False,
) -> Publication:
    """The files and card of an artifact under the name of a repository or folder.

    `licence`: what its owner publishes it under, instead of the licences in its lineage. `with_demonstrations`: also
    the rows that the prompt of a model shows; it was trained on them, so they are published only if that is asked for.
    Raises InputError if the artifact is nothing that others can load, lacks files, or has a licence that forbids to
    publish it.
    """
    manifest = artifact.manifest
    if manifest.content not in ("model", "adapter", "dataset"):
        what = f"{manifest.id} is a {manifest.content}, which no one else could load"
        raise InputError(what, where=str(artifact.path), fix="Publish a model, an adapter or a data set.")
    _check_files(artifact)
    licences = (licence,) if licence is not None else manifest.licences
    forbidding = licences_that_forbid(licences or ("unknown",))
    if is_public and forbidding:
        what = f"{manifest.id} may not be published, as it comes under: {', '.join(forbidding)}"
        fix = "Push it with --private, or name with --licence what you may publish it under."
        raise InputError(what, where=store.uri, fix=fix)
    card = card_of(artifact, store, name, licences)
    kind: HubKind = "dataset" if manifest.content == "dataset" else "model"
    paths = [file.path for file in manifest.files]
    if kind == "model":
        patterns = (*MODEL_FILES, *((SHOWN_FILE,) if with_demonstrations else ()))
        paths = [path for path in paths if any(matches(path, pattern) for pattern in patterns)]
    base = base_of_card(artifact, store)
    files: dict[str, Path | bytes] = {path: _published(artifact.path / path, base) for path in paths}
    lacks_demonstrations = kind == "model" and not with_demonstrations and (artifact.path / SHOWN_FILE).exists()
    return Publication(artifact, name, kind, card, files | {CARD_NAME: card.text.encode()}, lacks_demonstrations)


def _check_files(artifact: Artifact) -> None:
    present = [file.path for file in artifact.manifest.files]
    if OWN_CONFIG in present:
        what = f"{artifact.id} is an adapter of a method that only Rayloom loads"
        raise InputError(what, where=str(artifact.path), fix="Publish an adapter of PEFT, or a merged model.")
    for pattern in NEEDED.get(artifact.manifest.content, ()):
        if not any(matches(path, pattern) for path in present):
            what = f"{artifact.id} has no {pattern}, and cannot be loaded without it"
            raise InputError(what, where=str(artifact.path), fix="Make it again, or publish what was made from it.")


def _published(file: Path, base: str | None) -> Path | bytes:
    """The file, or its content without paths of this machine."""
    if not file.name.endswith("config.json"):
        return file
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return file
    local = [key for key in _PATHS_INSIDE if isinstance(values, dict) and str(values.get(key) or "").startswith("/")]
    if not local:
        return file
    kept: dict[str, Any] = values | dict.fromkeys(local, base or "")
    return (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode()


def to_folder(what: Publication, folder: Path) -> None:
    """Writes the files to a new folder. Raises InputError if there is one with something in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("The folder is not empty", where=str(folder), fix="Name a new one, or empty it.")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for name, content in what.files.items():
        place = unfinished / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            place.write_bytes(content)
        else:
            shutil.copyfile(content, place)
    if folder.exists():
        folder.rmdir()
    unfinished.rename(folder)


def to_hub(what: Publication, branch: str, *, is_private: bool) -> str:
    """Uploads the files and makes one commit of them; gives its address.

    Large files are uploaded first and are not sent again after an interruption, as the hub knows them by their digest;
    until the commit nobody sees them. Raises InputError without a token (`HF_TOKEN`) or the right to write.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    token = os.environ.get("HF_TOKEN")
    if not token:
        fix = "Set HF_TOKEN to a token that may write; it is read from the environment only."
        raise InputError("Nobody may write to the hub without a token", where=what.name, fix=fix)
    api = hub_api()
    with hub_errors(what.name):
        try:
            api.create_repo(what.name, repo_type=what.kind, private=is_private, exist_ok=True, token=token)
            if is_private and not api.repo_info(what.name, repo_type=what.kind, token=token).private:
                fix = "Make it private on the hub first, or name another one."
                raise InputError("This repository is public already", where=what.name, fix=fix)
            if branch != "main":
                api.create_branch(what.name, branch=branch, repo_type=what.kind, exist_ok=True, token=token)
            held = api.list_repo_files(what.name, revision=branch, repo_type=what.kind, token=token)
            added = [CommitOperationAdd(name, content) for name, content in what.files.items()]
            removed = [CommitOperationDelete(name) for name in _stale(held, what)]
            message = f"{what.artifact.id}, by Rayloom"
            commit = api.create_commit(
                what.name, [*added, *removed], commit_message=message, repo_type=what.kind, revision=branch, token=token
            )
        except RuntimeError as error:  # the client's own wrapper of a failed upload
            fix = "Run the same command again: what was uploaded is not sent again."
            reason = str(error.__cause__ or error).splitlines()[0]
            raise ResourceError(f"The upload was interrupted: {reason}", where=what.name, fix=fix) from error
    return str(commit.commit_url)


def _stale(held: Sequence[str], what: Publication) -> list[str]:
    """Weights of an earlier version: a server that reads all of a folder's weights would take them too."""
    return [
        name for name in held if name.endswith((".safetensors", ".safetensors.index.json")) and name not in what.files
    ]
