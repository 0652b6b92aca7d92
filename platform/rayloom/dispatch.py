"""From a job file to its artifact: find what it names, then reuse a finished result or run the stage once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rayloom.artifacts.build import ResolvedJob, build, check_content
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.kinds import KINDS, SPECS, imported
from rayloom.observe.progress import say
from rayloom.specs.base import Reference, references
from rayloom.specs.ingest import FolderSource, HubSource, ImportSpec
from rayloom.specs.load import Job, load


def load_job(file: Path, overrides: Sequence[str] = ()) -> Job:
    return load(file, SPECS, overrides)


def resolve(job: Job, store: Store) -> ResolvedJob:
    """Finds every artifact that the job names. `hf://` and paths are imported first, so that lineage has no gap."""
    parents = {}
    for reference in references(job.spec):
        artifact = _find(reference, job, store)
        check_content(reference, artifact.manifest)
        parents[reference.path] = artifact
    return ResolvedJob(job.spec, KINDS[job.spec.kind].version, parents, job.directory)


def run(job: Job, store: Store) -> tuple[Artifact, bool]:
    """The job's artifact, and whether it was made now (False: it was in the store already)."""
    resolved = resolve(job, store)
    stage = imported(KINDS[job.spec.kind].stage)
    return build(resolved, store, stage, lambda: say(f"{job.spec.name}: another process is making it; waiting"))


def _find(reference: Reference, job: Job, store: Store) -> Artifact:
    if reference.text.startswith("artifact:"):
        return store.open(store.resolve(reference.text))
    if "model" not in reference.contents and "dataset" not in reference.contents:
        what = f"{reference.path} must name an artifact ({' or '.join(reference.contents)})"
        raise InputError(what, where=reference.text, fix="Write artifact:NAME.")
    imported_job = Job(_import_spec(reference, job.directory), job.file)
    return run(imported_job, store)[0]


def _import_spec(reference: Reference, directory: Path) -> ImportSpec:
    content = "dataset" if "dataset" in reference.contents else "model"
    if reference.text.startswith("hf://"):
        repository, _, revision = reference.text.removeprefix("hf://").partition("@")
        source: HubSource | FolderSource = HubSource(type="hub", repository=repository, revision=revision or "main")
        name = repository.rpartition("/")[2].lower()
    else:
        path = (directory / Path(reference.text).expanduser()).resolve()
        if not path.exists():
            raise InputError(f"{reference.path} names a path that does not exist", where=str(path), fix="Correct it.")
        source = FolderSource(type="folder", path=str(path))
        name = path.name.lower()
    return ImportSpec.model_validate(
        {"kind": "import", "name": name, "source": source, "content": {"type": content}, "licence": "unknown"}
    )
