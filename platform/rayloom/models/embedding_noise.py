"""Noise on embeddings while a model is fine-tuned (NEFTune, Jain et al. 2023, arXiv:2310.05914)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def add_embedding_noise(model: nn.Module, alpha: float) -> None:
    """Adds uniform noise of at most alpha / √(S · D) to every embedding, in training only.

    S positions of a row, D hidden size. Drawn from torch's state, which the loop seeds for each micro-batch.
    """

    def noisy(module: nn.Module, _: Any, embedded: Tensor) -> Tensor:
        if not module.training:
            return embedded
        positions, size = embedded.shape[-2:]
        return embedded + torch.empty_like(embedded).uniform_(-1, 1) * (alpha / math.sqrt(positions * size))

    inner: Any = model
    inner.get_input_embeddings().register_forward_hook(noisy)
