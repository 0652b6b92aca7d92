"""How a training job moves weights: the optimiser, and the learning rate by step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayloom.specs.base import Share, Spec


class Schedule(Spec):
    """Learning rate by step: linear warm-up, then the named shape down to `final_share` of the peak."""

    type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_share: Share = 0.1


class AdamW(Spec):
    """AdamW (Loshchilov & Hutter 2019); norms and biases are never decayed."""

    type: Literal["adamw"]
    beta1: Annotated[float, Field(gt=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


class Muon(Spec):
    """Orthogonalised momentum for the matrices inside the layers (Jordan et al. 2024), AdamW for everything else.

    Updates are scaled to AdamW's usual size (Liu et al. 2025), so that one learning rate serves both.
    """

    type: Literal["muon"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    beta1: Annotated[float, Field(gt=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


Optimizer = Annotated[AdamW | Muon, Field(discriminator="type")]
