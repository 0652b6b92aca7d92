"""A training job as the worker of another node sees it: the same artifacts and rows, in that node's own folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rayloom.artifacts.lock import exclusive
from rayloom.artifacts.manifest import Manifest
from rayloom.train.job import TrainJob
from rayloom.train.prepare import DATA_NAME, job_of


def on_this_node(job: TrainJob, parents: Mapping[str, Manifest]) -> TrainJob:
    """The job with this node's paths. `parents`: the artifacts that the spec names, by path of the reference.

    What the job needs is fetched from the store, once for all workers of the node. Where every worker sees the same
    folders, the job is given back as it is.
    """
    if job.copy is None:
        return job
    work = job.copy.folder
    work.mkdir(parents=True, exist_ok=True)
    with exclusive(work / ".preparing"):
        artifacts = {path: job.copy.store.open(manifest) for path, manifest in parents.items()}
        job.copy.fetch(DATA_NAME)
        here = job_of(job.spec, artifacts, work, work / job.out.name)
    return replace(
        here,
        micro_batch_sequences=job.micro_batch_sequences,
        retry_after_steps=job.retry_after_steps,
        copy=job.copy,
    )
