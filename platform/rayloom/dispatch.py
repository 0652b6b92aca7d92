"""From a job file to its artifact: resolves its references, then reuses a finished result or runs the stage once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rayloom.artifacts.build import ResolvedJob, build, check_content
from rayloom.artifacts.manifest import stamp_of_path
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.kinds import KINDS, SPECS, imported
from rayloom.observe.progress import say
from rayloom.observe.ray_session import is_on_cluster
from rayloom.reading.files_in_place import files_in_place, stamp_of_files
from rayloom.specs.base import ArtifactReference, references
from rayloom.specs.files.load import Job, load
from rayloom.specs.ingest import HubSource, import_of, source_of
from rayloom.specs.one_task import OneTaskSpec


def load_job(file: Path, overrides: Sequence[str] = ()) -> Job:
    return load(file, SPECS, overrides)


def resolve(job: Job, store: Store, *, fetch: bool = True) -> ResolvedJob:
    """The job with every artifact that it names.

    `hf://` references and paths are imported as artifacts, so that the lineage is complete. Without `fetch`, raises
    InputError if one was not imported before.
    """
    parents = _parents(job, store, fetch)
    settle = KINDS[job.spec.kind].settle
    spec = imported(settle)(job.spec, parents) if settle is not None else job.spec
    if spec != job.spec:  # what was filled in can name artifacts too, such as a draft model
        parents = _parents(replace(job, spec=spec), store, fetch)
    return ResolvedJob(spec, KINDS[spec.kind].version, parents, job.directory, _outside(job))


def _parents(job: Job, store: Store, fetch: bool) -> dict[str, Artifact]:
    """The artifact of each reference in the job, by dotted path."""
    parents = {}
    for reference in references(job.spec):
        parents[reference.path] = _find(reference, job, store, fetch)
        check_content(reference, parents[reference.path].manifest)
    return parents


def run(job: Job, store: Store) -> tuple[Artifact, bool]:
    """The job's artifact, and whether it was made now (False: it was in the store already)."""
    resolved = resolve(job, store)
    finished = store.manifest(resolved.spec.name, resolved.version)
    if finished is None and isinstance(resolved.spec, OneTaskSpec) and is_on_cluster():
        from rayloom.submit.resource_requests import task_memory_bytes
        from rayloom.submit.run import in_one_task

        memory = task_memory_bytes(resolved.parents, store)
        return in_one_task(partial(_made, resolved, store), resolved.spec.bundles()[0], memory, resolved.spec.name)
    return _made(resolved, store)


def _made(job: ResolvedJob, store: Store) -> tuple[Artifact, bool]:
    stage = imported(KINDS[job.spec.kind].stage)
    return build(job, store, stage, lambda: say(f"{job.spec.name}: another process is making it; waiting"))


def _outside(job: Job) -> dict[str, str]:
    """Stamps of the job's inputs that are not artifacts, by dotted path: if one changes, the job gets a new version."""
    stamps = {}
    for files in job.spec.outside_files():
        if "://" in files.location:
            found = files_in_place(files.location, files.pattern, files.subset, files.split)
            commits = sorted({file.commit for file in found if file.commit})
            stamps[files.path] = " ".join([*commits, stamp_of_files(found)])
            continue
        path = (job.directory / Path(files.location).expanduser()).resolve()
        if path.exists():
            stamps[files.path] = stamp_of_path(path)
    return stamps


def _find(reference: ArtifactReference, job: Job, store: Store, fetch: bool) -> Artifact:
    if reference.text.startswith("artifact:"):
        return store.open(store.resolve(reference.text))
    if not {"model", "adapter", "dataset"} & set(reference.contents):
        what = f"{reference.path} must name an artifact ({' or '.join(reference.contents)})"
        raise InputError(what, where=reference.text, fix="Write artifact:NAME.")
    source, base = source_of(reference, job.directory), None
    if isinstance(source, HubSource):
        found = _imported_before(reference, job, source, store)
        if found is not None:
            return found
    may_be_adapter = "adapter" in reference.contents and "dataset" not in reference.contents
    if may_be_adapter and (fetch or not isinstance(source, HubSource)):
        from rayloom.ingest.adapter_folder import base_named

        base = base_named(source, reference.path)
    import_job = Job(import_of(reference, job.directory, base), job.file)
    if fetch:
        return run(import_job, store)[0]
    known = store.manifest(import_job.spec.name, resolve(import_job, store, fetch=False).version)
    if known is None:
        fix = "`rayloom run` on this job fetches it first; an import job for it does so alone."
        raise InputError(f"{reference.path} is not in the store yet", where=reference.text, fix=fix)
    return store.open(known)


def _imported_before(reference: ArtifactReference, job: Job, source: HubSource, store: Store) -> Artifact | None:
    """The artifact that an earlier job imported for the same reference, found without asking the hub again."""
    written, version = source.model_dump(mode="json"), KINDS["import"].version
    same = [
        manifest
        for manifest in store.versions(import_of(reference, job.directory).name)
        if (manifest.kind, manifest.stage_version, manifest.spec.get("source")) == ("import", version, written)
        and manifest.content in reference.contents
    ]
    return store.open(same[-1]) if same else None
