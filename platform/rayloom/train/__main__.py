"""Runs a training job without Ray: `torchrun --nproc-per-node 8 -m rayloom.train job.yaml`, or `python -m …`.

It uses the same loop, checkpoints and artifact as `rayloom run`. Artifacts that the job names must be in the store.
The number of workers is torchrun's. If a worker dies, all end, and the same command resumes the run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from rayloom.artifacts.build import Build, ResolvedJob, build, check_content
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Store
from rayloom.errors import InputError, RayloomError
from rayloom.observe.progress import progress, say
from rayloom.specs.base import JobSpec, references
from rayloom.specs.files.load import Job, load
from rayloom.specs.train import TrainSpec
from rayloom.train.job import TrainJob
from rayloom.train.loop.loop import train
from rayloom.train.prepare import job_of
from rayloom.train.process_group import Group, backend_for, current_group
from rayloom.train.publish import publish
from rayloom.train.reporting.trackers import TrackedRun, TrainingProgress, opened
from rayloom.train.settings import note
from rayloom.train.sizes.disk import check_room
from rayloom.train.sizes.model_size import size_of_job

STAGE_VERSION = 3
"""Version of kind `train` in rayloom.kinds, which this package must not import; a test keeps them equal."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the job; returns the exit code. All processes call it; only the first writes artifacts and prints."""
    parser = argparse.ArgumentParser(prog="python -m rayloom.train", description="Train without Ray.")
    parser.add_argument("file", type=Path, metavar="FILE", help="a job file of kind train")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override one field")
    options = parser.parse_args(arguments)
    group = join()
    try:
        job = load(options.file, {"train": TrainSpec}, options.set)
        _train(job, group)
    except RayloomError as error:
        say(f"error: {error}")
        return error.exit_code
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def join() -> Group:
    """The process group that torchrun describes in the environment, or one with only this process."""
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if has_gpu else torch.device("cpu")
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    if has_gpu:
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group(backend_for(device))
    return current_group(device)


def _train(job: Job, group: Group) -> None:
    if not group.is_first:
        given: TrainJob | None = group.from_first(None)
        if given is not None:
            train(given, group, lambda _: None)
        return
    store = Store.beside(job.directory)
    artifact, was_made = build(_resolved(job, store), store, lambda spec, made: _stage(spec, made, group))
    if not was_made:
        group.from_first(None)
    say(f"{artifact.manifest.id}: {artifact.manifest.headline}")


def _stage(spec: JobSpec, given: Build, group: Group) -> Outcome:
    """The first process' work: prepares the job, trains with the others, publishes."""
    if not isinstance(spec, TrainSpec):
        raise TypeError(f"{spec.kind} is not a training job")
    if spec.policy is not None:
        raise InputError("A policy's answers are written by engines on Ray", fix="Use `rayloom run`.")
    job = job_of(spec, given.parents, given.work, given.work / "result", store=given.store)
    unfinished = None if job.finished.exists() else job
    if unfinished is not None:
        check_room(job, size_of_job(job))
        note(spec, given.work)
    group.from_first(unfinished)
    if unfinished is not None:
        with (
            progress(f"training {spec.name}", job.num_steps, "steps") as bar,
            opened(TrackedRun(spec, given.version, given.job_directory)) as trackers,
        ):
            shown = TrainingProgress(job, bar, trackers)

            def tell(event: dict[str, Any]) -> None:
                shown.show([event])

            train(job, group, tell)
    return publish(job, given)


def _resolved(job: Job, store: Store) -> ResolvedJob:
    parents = {}
    for reference in references(job.spec):
        if not reference.text.startswith("artifact:"):
            fix = "Run an import job for it where Ray is, and write artifact:NAME."
            raise InputError(f"{reference.path} is no artifact, and only `rayloom run` imports", fix=fix)
        artifact = store.open(store.resolve(reference.text))
        check_content(reference, artifact.manifest)
        parents[reference.path] = artifact
    return ResolvedJob(job.spec, STAGE_VERSION, parents, job.directory, {})


if __name__ == "__main__":
    sys.exit(main())
