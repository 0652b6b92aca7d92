"""Optimiser, learning rate schedule and precision of a training job."""

from typing import Annotated, Literal

from pydantic import Field

from rayloom.specs.base import Share, Spec

Momentum = Annotated[float, Field(gt=0, lt=1)]


class Schedule(Spec):
    """Learning rate by step: linear warm-up, then the named shape down to `final_share` of the peak."""

    type: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """wsd: warm-up, stable, then linear decay over the last `decay_share` (Hu et al. 2024, MiniCPM)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which the rate rises from 0 to its peak."""
    final_share: Share = 0.1
    """The rate at the last step, as a share of the peak."""
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """For wsd: share of all steps, at the end, in which the rate falls (Hägele et al. 2024)."""


class ActivationCheckpointing(Spec):
    """Activations that are not kept for the backward pass but computed again (Chen et al. 2016, arXiv:1604.06174)."""

    every_layers: Annotated[int, Field(ge=1)] = 1
    """In each n-th layer only; the other layers keep all of theirs."""
    keep: Literal["inputs", "products"] = "inputs"
    """inputs: only what a layer reads. products: also the results of matrix products and attention, which take most of
    the time, so that only cheap operations are repeated (Korthikanti et al. 2022, arXiv:2205.05198)."""


class AdamW(Spec):
    """AdamW (Loshchilov & Hutter 2019); norms and biases have no weight decay."""

    type: Literal["adamw"]
    beta1: Momentum = 0.9
    """Decay of the running mean of gradients, per step."""
    beta2: Momentum = 0.95
    """Decay of the running mean of squared gradients, per step."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator, so that it is never 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """At each step, weights shrink by the learning rate times this."""


class AdamW8bit(Spec):
    """AdamW with both moments in blockwise 8 bits (Dettmers et al. 2022): 2 bytes a weight, not 8. Needs a GPU."""

    type: Literal["adamw8bit"]
    beta1: Momentum = 0.9
    """Decay of the running mean of gradients, per step."""
    beta2: Momentum = 0.95
    """Decay of the running mean of squared gradients, per step."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator, so that it is never 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """At each step, weights shrink by the learning rate times this."""


class Muon(Spec):
    """Orthogonalised momentum for the matrices inside the layers (Jordan et al. 2024), AdamW for everything else.

    Updates are scaled to AdamW's usual size (Liu et al. 2025), so that both use one learning rate.
    """

    type: Literal["muon"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of the momentum of the matrices, per step."""
    beta1: Momentum = 0.9
    """AdamW's decay of the running mean of gradients, per step."""
    beta2: Momentum = 0.95
    """AdamW's decay of the running mean of squared gradients, per step."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to AdamW's denominator, so that it is never 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """At each step, weights shrink by the learning rate times this."""


Optimizer = Annotated[AdamW | AdamW8bit | Muon, Field(discriminator="type")]

Precision = Literal["bf16", "fp16", "fp32"]
"""Precision of weights and activations; master weights, gradient sums and optimiser state are always fp32. With fp32,
GPUs multiply matrices in TF32."""
