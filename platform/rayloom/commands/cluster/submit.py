"""`rayloom submit FILE`: runs a job file on a cluster."""

from __future__ import annotations

import argparse
import os
import sys
import time

from rayloom.dispatch import load_job
from rayloom.errors import INTERRUPTED_EXIT_CODE, ResourceError
from rayloom.observe.environment import installed_versions
from rayloom.observe.progress import console, say
from rayloom.pipeline.graph import load_stages
from rayloom.specs.files.load import Job
from rayloom.specs.pipeline import PipelineSpec
from rayloom.submit.jobs_api import ClusterJob, JobsApi
from rayloom.submit.local_cluster import cluster_api
from rayloom.submit.package import code_package, job_package
from rayloom.submit.resource_requests import check_fits
from rayloom.submit.submission import Submission, check_store
from rayloom.submit.submission import submit as submit_to

POLL_SECONDS = 1.0


def submit(options: argparse.Namespace) -> int:
    """Submits the job and, if asked to, follows it or waits until it ends."""
    job = load_job(options.file, options.set)
    stages = [item.job for item in load_stages(job.spec, job, load_job)] if isinstance(job.spec, PipelineSpec) else []
    store = options.store or os.environ.get("RAYLOOM_STORE", "")
    check_store(store)
    api = cluster_api(options.address)
    _check_cluster(api, [job, *stages])
    submission = Submission(
        name=options.name or job.spec.name,
        kind=job.spec.kind,
        file=options.file.name,
        code=code_package(),
        files=job_package(job, stages),
        overrides=tuple(options.set),
        store=store,
        environment={},
    )
    started, is_new = submit_to(api, submission)
    state = "submitted" if is_new else f"was submitted before and is {started.status.lower()}"
    say(f"{started.name}: {state} as {started.id}")
    if options.follow:
        follow(api, started)
    if options.follow or options.wait:
        return exit_code(wait(api, started))
    say(f"`rayloom jobs logs {started.name} --follow` shows what it does; jobs status and jobs stop take the name too")
    return 0


def _check_cluster(api: JobsApi, jobs: list[Job]) -> None:
    """Checks what is known before the submission; the job itself checks the rest when it starts."""
    there, here = api.ray_version(), installed_versions().get("ray", "none")
    if there != here:
        fix = "Install the cluster's version here, or this one there; cluster/ has images with the tested set."
        raise ResourceError(f"The cluster runs Ray {there}, and here is {here}", where=api.address, fix=fix)
    for note in check_fits([job.spec for job in jobs], api.nodes(), api.can_grow()):
        say(f"note: {note}")


def follow(api: JobsApi, job: ClusterJob) -> None:
    """Prints the job's log as it grows."""
    for piece in api.follow(job.id):
        sys.stdout.write(piece)
        sys.stdout.flush()


def wait(api: JobsApi, job: ClusterJob) -> ClusterJob:
    """The job once it has ended."""
    with console().status(f"{job.name} runs on the cluster"):
        while not job.is_finished:
            time.sleep(POLL_SECONDS)
            job = api.find(job.id)
    say(f"{job.name}: {job.status.lower()}")
    if job.status == "FAILED" and job.reason:
        say(job.reason)
    return job


def exit_code(job: ClusterJob) -> int:
    """The exit code of the job's own command on the cluster."""
    if job.status == "STOPPED":
        return INTERRUPTED_EXIT_CODE
    if job.status == "FAILED":
        return job.exit_code or 1
    return 0
