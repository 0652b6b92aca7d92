"""Estimates of a run's disk space: checkpoints and finished weights; made without loading torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from rayloom.errors import ResourceError
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import is_whole_model
from rayloom.train.job import TrainJob
from rayloom.train.sizes.estimates import checkpoint_bytes
from rayloom.train.sizes.model_size import ModelSize

FP32_BYTES, HALF_BYTES = 4, 2


def disk_bytes(spec: TrainSpec, size: ModelSize) -> int:
    """Peak disk use of a run: the checkpoints that it keeps, the one being written, the result and the best weights."""
    saved = size.parameters if is_whole_model(spec.adapter) else size.trained
    result = saved * (FP32_BYTES if spec.precision == "fp32" else HALF_BYTES)
    best = result if spec.early_stopping is not None else 0
    return (spec.checkpoints.keep + 1) * checkpoint_bytes(size) + result + best


def no_room(spec: TrainSpec, size: ModelSize, folder: Path) -> ResourceError | None:
    """The error if the disk of the checkpoints' folder is too small, or None. Files already there count as free."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    mine = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free, needed = shutil.disk_usage(existing).free + mine, disk_bytes(spec, size)
    if needed <= free:
        return None
    keep = spec.checkpoints.keep
    what = (
        f"The run needs {needed / 1e9:,.1f} GB of disk ({keep} checkpoints of {checkpoint_bytes(size) / 1e9:,.1f} GB, "
        f"the next one and the result), and {free / 1e9:,.1f} GB are free"
    )
    lower = "set checkpoints.keep: 1, " if keep > 1 else ""
    return ResourceError(
        what, where=str(existing), fix=f"Make room there, {lower}or name another store with RAYLOOM_STORE."
    )


def check_room(job: TrainJob, size: ModelSize) -> None:
    """Raises ResourceError if the run does not fit on the disk of its work folder."""
    error = no_room(job.spec, size, job.checkpoints)
    if error is not None:
        raise error
