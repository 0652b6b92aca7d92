"""What memory a trial's worker needs, from the plan of its training, and whether its part of a GPU has that."""

from __future__ import annotations

from collections.abc import Mapping

from rayloom.artifacts.store import Artifact
from rayloom.specs.tune import TuneSpec
from rayloom.text.packed.shards import TokenShards
from rayloom.train.sizes.estimates import memory_per_device
from rayloom.train.sizes.model_size import ModelSize, size_of_architecture, size_of_base

PROCESS_BYTES = 900_000_000
"""A worker's Python with torch, transformers and Ray, before it holds a model."""


def memory_bytes_per_worker(spec: TuneSpec, parents: Mapping[str, Artifact]) -> int | None:
    """Main memory of one worker of a trial; None where a GPU holds the model, or the base says no sizes.

    Of the training job as it stands: a searched rank or length changes little of it.
    """
    if spec.train.workers.gpus_per_worker:
        return None
    size = _size(spec, parents)
    return None if size is None else PROCESS_BYTES + memory_per_device(spec.train, size).total


def gpu_memory_problems(spec: TuneSpec, parents: Mapping[str, Artifact], gpu_bytes: int | None) -> list[str]:
    """What to do where a worker's part of a GPU does not hold what it needs; empty where it does or nothing is known.

    Trials on one GPU share its memory without a wall between them: the last to grow would be the one that fails.
    """
    part = min(1.0, spec.gpus_per_trial / spec.train.workers.num_workers)
    size = _size(spec, parents) if part and gpu_bytes else None
    if size is None or gpu_bytes is None:
        return []
    needed, room = memory_per_device(spec.train, size).total, gpu_bytes * part
    if needed <= room:
        return []
    said = f"A trial needs about {needed / 1e9:,.2g} GB of GPU memory, and {part:g} of a GPU has {room / 1e9:,.2g} GB"
    return [f"{said}: raise resources.gpus_per_trial, or lower the training job's micro_batch_sequences"]


def _size(spec: TuneSpec, parents: Mapping[str, Artifact]) -> ModelSize | None:
    train = spec.train
    if train.architecture is not None:
        rows = TokenShards(parents["train.data.corpus"].path / "train", train.sequence_length_tokens)
        return size_of_architecture(train.architecture, rows.vocabulary_size)
    return size_of_base(train, parents["train.base"].path)
