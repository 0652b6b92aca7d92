"""What is done to a model's layers before training: recomputing instead of keeping, and compiling."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rayloom.errors import ResourceError
from rayloom.specs.train import TrainSpec


def prepare_layers(model: nn.Module, spec: TrainSpec, device: torch.device) -> None:
    """Does what the spec asks for. Names of parameters, and so checkpoints, stay as they are."""
    if spec.activation_checkpointing:
        recompute: Any = model
        # The other kind, "reentrant", needs inputs that have gradients, which frozen embeddings do not give.
        recompute.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if spec.compile:
        _check_compiler(device)
        for layer in layers_of(model):
            layer.compile()


def layers_of(model: nn.Module) -> Iterator[nn.Module]:
    """The repeated blocks: alike, so that what is compiled for one serves all."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))


def _check_compiler(device: torch.device) -> None:
    if device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        fix = "Install one (on Debian: apt-get install g++), or set compile: false."
        raise ResourceError("compile needs a C++ compiler on a CPU, and there is none", where="g++", fix=fix)
