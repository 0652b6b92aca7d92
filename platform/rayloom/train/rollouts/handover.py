"""New weights as the files that an engine loads: a LoRA adapter's folder, or all weights in one file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from rayloom.models.adapters import save
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import NoAdapter
from rayloom.train.rollouts.answers import Files

MEMORY = Path("/dev/shm")


def files_of(spec: TrainSpec, model: nn.Module, weights: Mapping[str, Tensor]) -> Files:
    """The files by name. `weights`: the trained parameters by name, in the precision of training, which is kept."""
    here = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    if isinstance(spec.adapter, NoAdapter):
        from safetensors.torch import save as as_bytes

        return {"model.safetensors": np.frombuffer(as_bytes(here), np.uint8)}
    with tempfile.TemporaryDirectory(prefix="rayloom-weights-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        save(model, spec.adapter, here, Path(folder))
        return {file.name: np.fromfile(file, np.uint8) for file in Path(folder).iterdir() if file.is_file()}
