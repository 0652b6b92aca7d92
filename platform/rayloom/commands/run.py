"""`rayloom run`: runs one job or a pipeline, with the engines' output in a log."""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext

from rayloom.artifacts.store import Store
from rayloom.commands.plan import missing_inputs
from rayloom.dispatch import load_job, resolve
from rayloom.dispatch import run as run_job
from rayloom.errors import InputError
from rayloom.kinds import KINDS, imported
from rayloom.observe.job_log import engines_to, logged_to, new_log
from rayloom.observe.progress import say
from rayloom.observe.ray_session import disconnect, is_on_cluster
from rayloom.pipeline.graph import load_stages
from rayloom.specs.files.load import Job
from rayloom.specs.pipeline import PipelineSpec


def run(options: argparse.Namespace) -> int:
    """Makes the job's artifact, or prints that it exists already."""
    job = load_job(options.file, options.set)
    store = Store.beside(job.directory)
    if isinstance(job.spec, PipelineSpec):
        _check_inputs(job.spec, job, store)
    log = new_log(store.log_directory, f"{job.spec.kind}-{job.spec.name}")
    begin = {"file": str(job.file), "kind": job.spec.kind, "pid": os.getpid()}
    job_log = logged_to(log.with_suffix(".jsonl"), job.spec.name, options.as_stage, begin)
    with job_log, nullcontext() if options.debug else engines_to(log):
        try:
            return _run(job, store, bool(options.as_stage))
        finally:
            # Inside the block, so that the workers' last output goes into the log too.
            disconnect()


def _run(job: Job, store: Store, is_stage: bool) -> int:
    if is_on_cluster() and not is_stage:
        from rayloom.submit.run import check_cluster

        check_cluster(store)
    if isinstance(job.spec, PipelineSpec):
        from rayloom.pipeline.run import run_pipeline

        return run_pipeline(job.spec, job, store, load_job, run_job)
    foreground = KINDS[job.spec.kind].foreground
    if foreground is not None and not is_stage:
        imported(foreground)(job.spec, resolve(job, store).parents, job.directory)
        return 0
    artifact, made = run_job(job, store)
    say(f"{artifact.id} {'made' if made else 'was finished already'}: {artifact.place}")
    if artifact.manifest.headline:
        say(artifact.manifest.headline)
    return 0


def _check_inputs(spec: PipelineSpec, pipeline: Job, store: Store) -> None:
    """Raises InputError if a stage needs an artifact that no stage makes and that the store lacks."""
    missing = missing_inputs(load_stages(spec, pipeline, load_job), store)
    if missing:
        fix = "Add the stage that makes it, or run its job first."
        raise InputError("; ".join(missing), where=str(pipeline.file), fix=fix)
