"""From a job file to its artifact: find what it names, then reuse a finished result or run the stage once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rayloom.artifacts.build import ResolvedJob, build, check_content
from rayloom.artifacts.manifest import stamp_of_path
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.kinds import KINDS, SPECS, imported
from rayloom.observe.progress import say
from rayloom.reading.files_in_place import files_in_place, stamp_of_files
from rayloom.specs.base import JobSpec, Reference, references
from rayloom.specs.clean import CleanSpec
from rayloom.specs.cleaning.text_sources import DocumentFiles
from rayloom.specs.files.load import Job, load
from rayloom.specs.ingest import FolderSource, HubSource, ImportSpec
from rayloom.specs.train import TrainSpec


def load_job(file: Path, overrides: Sequence[str] = ()) -> Job:
    return load(file, SPECS, overrides)


def resolve(job: Job, store: Store, *, fetch: bool = True) -> ResolvedJob:
    """Finds every artifact that the job names.

    `hf://` and paths are imported, so that lineage has no gap; without `fetch`, one that was not imported before is an
    InputError.
    """
    parents = {}
    for reference in references(job.spec):
        artifact = _find(reference, job, store, fetch)
        check_content(reference, artifact.manifest)
        parents[reference.path] = artifact
    spec = _settled(job.spec, parents)
    return ResolvedJob(spec, KINDS[spec.kind].version, parents, job.directory, _outside(job))


def _settled(spec: JobSpec, parents: Mapping[str, Artifact]) -> JobSpec:
    """The spec with the values that it takes from a search, where it names one."""
    if not isinstance(spec, TrainSpec) or spec.settings_from is None:
        return spec
    from rayloom.tune.settings import with_best_values

    return with_best_values(spec, parents["settings_from"])


def run(job: Job, store: Store) -> tuple[Artifact, bool]:
    """The job's artifact, and whether it was made now (False: it was in the store already)."""
    resolved = resolve(job, store)
    stage = imported(KINDS[job.spec.kind].stage)
    return build(resolved, store, stage, lambda: say(f"{job.spec.name}: another process is making it; waiting"))


def _outside(job: Job) -> dict[str, str]:
    """Stamps of what a job reads that is no artifact: a folder that changed is imported again."""
    if isinstance(job.spec, CleanSpec):
        return _in_place(job.spec)
    if not isinstance(job.spec, ImportSpec) or not isinstance(job.spec.source, FolderSource):
        return {}
    path = (job.directory / Path(job.spec.source.path).expanduser()).resolve()
    return {"source.path": stamp_of_path(path)} if path.exists() else {}


def _in_place(spec: CleanSpec) -> dict[str, str]:
    evaluation = spec.decontamination.against if spec.decontamination is not None else ()
    named: dict[str, DocumentFiles] = {f"sources.{number}": source for number, source in enumerate(spec.sources)}
    named |= {f"decontamination.against.{number}": one for number, one in enumerate(evaluation)}
    return {
        f"{path}.uri": stamp_of_files(files_in_place(one.uri, one.files))
        for path, one in named.items()
        if one.uri is not None
    }


def _find(reference: Reference, job: Job, store: Store, fetch: bool) -> Artifact:
    if reference.text.startswith("artifact:"):
        return store.open(store.resolve(reference.text))
    if "model" not in reference.contents and "dataset" not in reference.contents:
        what = f"{reference.path} must name an artifact ({' or '.join(reference.contents)})"
        raise InputError(what, where=reference.text, fix="Write artifact:NAME.")
    imported_job = Job(_import_spec(reference, job.directory), job.file)
    if fetch:
        return run(imported_job, store)[0]
    known = store.manifest(imported_job.spec.name, resolve(imported_job, store).version)
    if known is None:
        fix = "`rayloom run` on this job fetches it first; an import job for it does so alone."
        raise InputError(f"{reference.path} is not in the store yet", where=reference.text, fix=fix)
    return store.open(known)


def _import_spec(reference: Reference, directory: Path) -> ImportSpec:
    """The import that a reference to the hub or to a path stands for.

    Its artifact's name begins with `hub.` or `folder.`, so that it never takes the place of one that a job file named.
    """
    content = "dataset" if "dataset" in reference.contents else "model"
    if reference.text.startswith("hf://"):
        repository, _, revision = reference.text.removeprefix("hf://").partition("@")
        source: HubSource | FolderSource = HubSource(type="hub", repository=repository, revision=revision or "main")
        name = f"hub.{repository}"
    else:
        path = (directory / Path(reference.text).expanduser()).resolve()
        if not path.exists():
            raise InputError(f"{reference.path} names a path that does not exist", where=str(path), fix="Correct it.")
        source = FolderSource(type="folder", path=str(path))
        name = f"folder.{path.name}"
    return ImportSpec.model_validate(
        {
            "kind": "import",
            "name": re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:63],
            "source": source,
            "content": {"type": content},
            "licence": "unknown",
        }
    )
