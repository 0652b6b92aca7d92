"""Runs the stages of a pipeline in the order of their needs; finished results are found in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rayloom.artifacts.store import Artifact, Store
from rayloom.observe.progress import say
from rayloom.specs.load import Job
from rayloom.specs.pipeline import PipelineSpec

LoadJob = Callable[[Path, Sequence[str]], Job]
RunJob = Callable[[Job, Store], tuple[Artifact, bool]]


def run_pipeline(job: Job, store: Store, load_job: LoadJob, run_job: RunJob) -> int:
    """Runs every stage; returns the exit code 0. A stage's error ends the pipeline; what is finished stays finished."""
    assert isinstance(job.spec, PipelineSpec)
    stages = [(stage, load_job(job.directory / stage.job, stage.set)) for stage in job.spec.ordered()]
    for stage, stage_job in stages:
        artifact, made = run_job(stage_job, store)
        say(f"{stage.name}: {artifact.id} {'made' if made else 'was finished already'}")
    return 0
