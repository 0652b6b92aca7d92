"""Number types of training, and dynamic loss scaling for fp16."""

from __future__ import annotations

import torch
from torch import nn

from rayloom.models.processor import multiplies_bf16
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.optimization import Precision
from rayloom.train.state import TrainState

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FIRST_SCALE = 2.0**14
LEAST_SCALE, MOST_SCALE = 1.0, 2.0**24
STEPS_BEFORE_GROWTH = 1000


def computing_precision(spec: TrainSpec, on_gpu: bool) -> Precision:
    """The number format that a worker really computes in.

    It is the spec's, except for bf16 on a CPU that would convert number by number: on an AMD EPYC of the third
    generation a training step in bf16 takes 18 times as long as in fp32.
    """
    converts = spec.precision == "bf16" and not on_gpu and not multiplies_bf16()
    return "fp32" if converts else spec.precision


def convert_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Converts parameters. Buffers keep their type: rotary frequencies in bf16 would be too imprecise."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def loss_scale(precision: str, state: TrainState) -> float:
    """The loss scale of the next step; 1 unless in fp16."""
    return state.loss_scale or FIRST_SCALE if precision == "fp16" else 1.0


def after_step(precision: str, state: TrainState, is_applied: bool) -> bool:
    """Updates the loss scale after a step (Micikevicius et al. 2018, section 3.2).

    It is halved if gradients overflowed, and doubled after STEPS_BEFORE_GROWTH steps without an overflow. Returns False
    if the loss scale cannot be the cause of an overflow.
    """
    if precision != "fp16":
        return False
    scale = loss_scale(precision, state)
    if not is_applied:
        state.loss_scale, state.steps_at_scale = max(LEAST_SCALE, scale / 2), 0
        return scale > LEAST_SCALE
    state.steps_at_scale += 1
    if state.steps_at_scale == STEPS_BEFORE_GROWTH:
        scale, state.steps_at_scale = min(MOST_SCALE, scale * 2), 0
    state.loss_scale = scale
    return True
