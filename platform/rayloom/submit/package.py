"""The archives uploaded with a job: Rayloom's own code, and the job files with the small local files that they name."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import rayloom
from rayloom.artifacts.manifest import files_below
from rayloom.errors import InputError
from rayloom.specs.base import references
from rayloom.specs.files.load import Job

MOST_UPLOADED_BYTES = 100_000_000
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """An archive for the cluster, named by its content's digest."""

    content: bytes

    @property
    def name(self) -> str:
        """The name, in the form that Ray expects of an uploaded package."""
        return f"_ray_pkg_{hashlib.sha256(self.content).hexdigest()[:32]}.zip"

    @property
    def uri(self) -> str:
        return f"gcs://{self.name}"


def code_package() -> Package:
    """Rayloom as installed here, in the layout of a wheel, so that the cluster runs the same code."""
    folder = Path(rayloom.__file__).parent
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    entries = {f"rayloom/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in files}
    metadata = importlib.metadata.distribution("rayloom").read_text("METADATA") or ""
    entries[f"rayloom-{rayloom.__version__}.dist-info/METADATA"] = metadata.encode()
    return Package(_zipped(entries))


@dataclass(frozen=True)
class JobFiles:
    """The archive of a job's files, and the job file's path in it."""

    package: Package
    file: str


def job_package(job: Job, stages: Sequence[Job] = ()) -> JobFiles:
    """The job's file, those of its stages, and the relative paths that they name.

    Raises InputError if they are too large to upload with a job, or a path exists only on this machine.
    """
    files = job_files([job, *stages])
    for one in (job, *stages):
        for path in named_paths(one):
            files |= set(files_below(path))
    total = sum(file.stat().st_size for file in files)
    if total > MOST_UPLOADED_BYTES:
        most = f"{MOST_UPLOADED_BYTES / 1e6:.0f} MB"
        what = f"The job's local files are {total / 1e6:.0f} MB, and at most {most} are uploaded with a job"
        fix = "Import them into the cluster's store once (RAYLOOM_STORE), and name them as artifact:NAME."
        raise InputError(what, where=str(job.file), fix=fix)
    root = Path(os.path.commonpath([file.parent for file in files]))
    entries = {file.relative_to(root).as_posix(): file.read_bytes() for file in files}
    return JobFiles(Package(_zipped(entries)), job.file.relative_to(root).as_posix())


def job_files(jobs: Iterable[Job]) -> set[Path]:
    """The files of jobs and the files that they include."""
    return {file for job in jobs for file in (job.file, *job.included)}


def named_paths(job: Job) -> Iterable[Path]:
    """The local paths that a spec names. Raises InputError if one does not exist or cannot exist on the cluster."""
    texts = [(r.path, r.text) for r in references(job.spec) if not r.text.startswith(("artifact:", "hf://"))]
    texts += [(files.path, files.location) for files in job.spec.outside_files() if "://" not in files.location]
    for field, text in texts:
        if text.startswith("~"):
            fix = "Write a path relative to the job file (it is uploaded), or an absolute one on shared storage."
            raise InputError(f"{field} is in a home folder, which the cluster does not have", where=text, fix=fix)
        if text.startswith("/"):
            continue  # on shared storage; the job itself fails with an error if the nodes do not have it
        # Symbolic links are not resolved: the target's content is sent under the link's path, which the job reads.
        path = Path(os.path.normpath(job.directory / text))
        if not path.exists():
            raise InputError(f"{field} names a path that does not exist", where=str(path), fix="Correct it.")
        yield path


def _zipped(entries: dict[str, bytes]) -> bytes:
    """A reproducible zip archive: equal entries give equal bytes, and so the same package name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(entries):
            facts = zipfile.ZipInfo(name, _EPOCH)
            facts.external_attr = 0o644 << 16
            archive.writestr(facts, entries[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
