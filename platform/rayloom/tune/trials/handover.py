"""What a trial takes over from another one, and what is removed of it, on its node and in the store."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rayloom.artifacts.durable import appearing
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.train.job import TrainJob
from rayloom.train.loop.checkpoints import MANIFEST_NAME


def begin_with(source: Path | WorkCopy, job: TrainJob) -> None:
    """Copies the donor's checkpoint to the trial's own atomically, unless the trial has one."""
    if any(job.checkpoints.glob("step-*")) or (job.copy is not None and job.copy.sizes(job.checkpoints.name)):
        return
    if isinstance(source, WorkCopy):
        source.fetch("")
    folder = source.folder if isinstance(source, WorkCopy) else source
    target = job.checkpoints / folder.name
    with appearing(target, single_writer=True) as unfinished:
        shutil.copytree(folder, unfinished, ignore=shutil.ignore_patterns(".*"))
    if job.copy is not None:
        names = sorted((path.name for path in target.iterdir()), key=lambda name: name == MANIFEST_NAME)
        for name in names:  # the manifest last
            job.copy.put(f"{job.checkpoints.name}/{target.name}/{name}")


def remove(job: TrainJob, names: Sequence[str]) -> None:
    """Removes folders of the trial's work folder, here and in its copy."""
    for name in names:
        shutil.rmtree(job.work / name, ignore_errors=True)
        if job.copy is not None:
            job.copy.remove(name)
