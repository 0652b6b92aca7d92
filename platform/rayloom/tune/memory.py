"""What memory a trial's worker needs, from the plan of its training."""

from __future__ import annotations

from collections.abc import Mapping

from rayloom.artifacts.store import Artifact
from rayloom.specs.adapters import LoraAdapter
from rayloom.specs.tune import TuneSpec
from rayloom.text.shards import TokenShards
from rayloom.train.estimates import memory_per_device
from rayloom.train.sizes import ModelSize, size_of_architecture, size_of_folder

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


def _size(spec: TuneSpec, parents: Mapping[str, Artifact]) -> ModelSize | None:
    train = spec.train
    if train.architecture is not None:
        rows = TokenShards(parents["train.data.corpus"].path / "train", train.sequence_length_tokens)
        return size_of_architecture(train.architecture, rows.vocabulary_size)
    adapter = train.adapter if isinstance(train.adapter, LoraAdapter) else None
    return size_of_folder(parents["train.base"].path, adapter)
