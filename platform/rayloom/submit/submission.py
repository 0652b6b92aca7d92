"""From a job file to a job on a cluster. Equal files, code and store give the same id, so that no job runs twice."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayloom.errors import InputError
from rayloom.submit.jobs_api import ClusterJob, JobsApi
from rayloom.submit.package import JobFiles, Package
from rayloom.submit.resource_requests import DRIVER_CPUS

STOP_GRACE_SECONDS = 120
"""How long a stopped job may take to save its checkpoint before it is killed. Ray's default is 3."""
RETRIED = ("FAILED", "STOPPED")


@dataclass(frozen=True)
class Submission:
    """Everything that Ray needs to run a job."""

    name: str
    kind: str
    file: str
    code: Package
    files: JobFiles
    overrides: tuple[str, ...]
    store: str
    environment: Mapping[str, str]

    @property
    def base_id(self) -> str:
        """The job id of the first attempt, from a digest of the content; later attempts append their number."""
        facts = [self.code.name, self.files.package.name, self.files.file, self.overrides, self.store]
        return f"rayloom-{self.name}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:10]}"

    def request(self, attempt: int) -> dict[str, Any]:
        """Ray's request for one attempt."""
        words = ["python", "-m", "rayloom", "run", self.files.file]
        for override in self.overrides:
            words += ["--set", override]
        return {
            "submission_id": attempt_id(self.base_id, attempt),
            "entrypoint": shlex.join(words),
            # With a CPU request, Ray spreads drivers over the nodes instead of starting all on the head.
            "entrypoint_num_cpus": DRIVER_CPUS,
            "metadata": {
                "rayloom_name": self.name,
                "rayloom_kind": self.kind,
                "rayloom_file": self.file,
                "rayloom_attempt": str(attempt),
            },
            "runtime_env": {
                "working_dir": self.files.package.uri,
                "py_modules": [self.code.uri],
                "env_vars": {
                    "RAYLOOM_STORE": self.store,
                    "RAYLOOM_ON_CLUSTER": "1",
                    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_SECONDS),
                    "PYTHONUNBUFFERED": "1",
                    **self.environment,
                },
            },
        }


def attempt_id(base_id: str, attempt: int) -> str:
    return base_id if attempt == 1 else f"{base_id}-{attempt}"


def base_of(job: ClusterJob) -> str:
    attempt = job.metadata.get("rayloom_attempt", "1")
    return job.id.removesuffix(f"-{attempt}") if attempt != "1" else job.id


def submit(api: JobsApi, submission: Submission) -> tuple[ClusterJob, bool]:
    """The job on the cluster, and whether it was started now (False: it runs already, or has succeeded)."""
    earlier = [job for job in api.jobs() if base_of(job) == submission.base_id]
    if earlier and earlier[-1].status not in RETRIED:
        return earlier[-1], False
    for package in (submission.code, submission.files.package):
        if not api.has_package(package.name):
            api.upload_package(package.name, package.content)
    request = submission.request(len(earlier) + 1)
    api.submit(request)
    return _started(api, request["submission_id"]), True


def retry(api: JobsApi, job: ClusterJob) -> ClusterJob:
    """A new attempt of a job that failed or was stopped. Raises InputError if it did neither."""
    if job.status not in RETRIED:
        fix = "A job that runs can be stopped first; one that succeeded has its artifact in the store."
        raise InputError(f"{job.id} is {job.status.lower()}: there is nothing to retry", fix=fix)
    attempt = 1 + sum(base_of(other) == base_of(job) for other in api.jobs())
    api.submit(
        {
            "submission_id": attempt_id(base_of(job), attempt),
            "entrypoint": job.entrypoint,
            "entrypoint_num_cpus": DRIVER_CPUS,
            "metadata": {**job.metadata, "rayloom_attempt": str(attempt)},
            "runtime_env": dict(job.runtime_env),
        }
    )
    return _started(api, attempt_id(base_of(job), attempt))


def _started(api: JobsApi, job_id: str) -> ClusterJob:
    job = api.job(job_id)
    assert job is not None
    return job


def check_store(store: str) -> None:
    """Raises InputError if there is no store, or its path is relative, which differs between nodes."""
    if not store:
        fix = "Set RAYLOOM_STORE, or --store, to a folder on storage that all nodes mount, or to s3://bucket/prefix."
        raise InputError("A submitted job needs a store that every node of the cluster can read and write", fix=fix)
    if "://" not in store and not store.startswith("/"):
        fix = "Give an absolute path that is the same on every node."
        raise InputError(
            "The store's path is relative, so that each node would look in a folder of its own", where=store, fix=fix
        )
