"""Faster kernels, activation checkpointing and compilation of a model's layers, and noise on its embeddings."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from rayloom.errors import ResourceError
from rayloom.models.compile_cache import keep_compiled
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.optimization import ActivationCheckpointing
from rayloom.train.weights.kernels import check_device, check_kernels, use_float8, use_liger


def prepare_layers(model: Any, spec: TrainSpec, device: torch.device) -> None:
    """Turns on kernels, activation checkpointing and compilation as the spec says. Parameter names do not change.

    Raises InputError or ResourceError if the model or the device is not for them.
    """
    check_kernels(spec, model.config)
    check_device(spec, device)
    if spec.kernels == "liger":
        use_liger(model)
    if spec.float8 is not None:
        use_float8(layers_of(model), spec.float8)
    if spec.recomputed is not None:
        recompute(model, spec.recomputed)
    if spec.compile:
        _check_compiler(device)
        keep_compiled()
        for layer in layers_of(model):
            layer.compile()


def recompute(model: Any, settings: ActivationCheckpointing) -> None:
    """Lets layers compute activations again in the backward pass."""
    # The reentrant variant needs inputs with gradients, which frozen embeddings do not have.
    how: dict[str, Any] = {"use_reentrant": False}
    if settings.keep == "products":
        how["context_fn"] = partial(create_selective_checkpoint_contexts, _kept_if_product)
    layers = {} if settings.every_layers == 1 else {"every_n_layers": settings.every_layers}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how, **layers)


PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product", "_varlen_attn")
"""Beginnings of the names of operations whose results are worth keeping."""


def _kept_if_product(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    name = operation.name().partition("::")[2]
    return CheckpointPolicy.MUST_SAVE if name.startswith(PRODUCTS) else CheckpointPolicy.PREFER_RECOMPUTE


def layers_of(model: nn.Module) -> Iterator[nn.Module]:
    """The model's repeated blocks. They have the same structure, so one compilation serves all of them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))


def _check_compiler(device: torch.device) -> None:
    if device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        fix = "Install one (on Debian: apt-get install g++), or set compile: false."
        raise ResourceError("compile needs a C++ compiler on a CPU, and there is none", where="g++", fix=fix)


# Noise on embeddings during fine-tuning (NEFTune, Jain et al. 2023, arXiv:2310.05914).


def add_embedding_noise(model: nn.Module, alpha: float) -> None:
    """Adds uniform noise in ±alpha / √(S · D) to all embeddings in training mode, for S positions and hidden size D.

    It is drawn from torch's generator, which the loop seeds for each micro-batch.
    """

    def noisy(module: nn.Module, _: Any, embedded: Tensor) -> Tensor:
        if not module.training:
            return embedded
        positions, size = embedded.shape[-2:]
        return embedded + torch.empty_like(embedded).uniform_(-1, 1) * (alpha / math.sqrt(positions * size))

    inner: Any = model
    inner.get_input_embeddings().register_forward_hook(noisy)
