"""How a training job moves weights: optimiser, learning rate by step, and the arithmetic that it happens in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayloom.specs.base import Share, Spec

Momentum = Annotated[float, Field(gt=0, lt=1)]


class Schedule(Spec):
    """Learning rate by step: linear warm-up, then the named shape down to `final_share` of the peak."""

    type: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """wsd: warm-up, stable, then linear decay over the last `decay_share` (Hu et al. 2024, MiniCPM)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_share: Share = 0.1
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Of wsd: the part of all steps in which the rate falls (Hägele et al. 2024)."""


class AdamW(Spec):
    """AdamW (Loshchilov & Hutter 2019); norms and biases are never decayed."""

    type: Literal["adamw"]
    beta1: Momentum = 0.9
    beta2: Momentum = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


class AdamW8bit(Spec):
    """AdamW with its two moments in 8 bits by blocks (Dettmers et al. 2022): 2 bytes a weight, not 8. Needs a GPU."""

    type: Literal["adamw8bit"]
    beta1: Momentum = 0.9
    beta2: Momentum = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


class Muon(Spec):
    """Orthogonalised momentum for the matrices inside the layers (Jordan et al. 2024), AdamW for everything else.

    Updates are scaled to AdamW's usual size (Liu et al. 2025), so that one learning rate serves both.
    """

    type: Literal["muon"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    beta1: Momentum = 0.9
    beta2: Momentum = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


Optimizer = Annotated[AdamW | AdamW8bit | Muon, Field(discriminator="type")]

Precision = Literal["bf16", "fp16", "fp32"]
"""Of weights and activations; master weights, sums of gradients and the optimiser are fp32 in any case."""
