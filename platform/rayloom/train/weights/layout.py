"""A model in the layout that a spec's `sharding` describes: each worker has its part, and they exchange the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rayloom.score.document_attention import check_context
from rayloom.score.parallel.axis import ALONE, Axis
from rayloom.specs.train import TrainSpec
from rayloom.train.weights.expert_parallel import check_experts, connect_experts, parts_of_experts
from rayloom.train.weights.sharded import ShardedWeights, Shards
from rayloom.train.weights.stages import check_stages, elsewhere, keep_stage
from rayloom.train.weights.tensor_parallel import check_parts, connect, part_in, plan_of


def check_layout(spec: TrainSpec, config: Any) -> None:
    """Raises InputError if a model of this configuration cannot be computed in the spec's layout."""
    sharding = spec.sharding
    if sharding.pipeline > 1:
        check_stages(config, sharding.pipeline)
    if sharding.tensor > 1:
        check_parts(config, sharding.tensor, sharding.expert > 1)
    if sharding.context > 1:
        check_context(config, sharding.in_layers, spec.sequence_length_tokens)
    if sharding.expert > 1:
        check_experts(config, sharding.expert)


def make_parts(
    model: Any,
    weights: ShardedWeights | None,
    tensor: Axis,
    device: torch.device,
    dtype: torch.dtype,
    expert: Axis = ALONE,
    pipeline: Axis = ALONE,
) -> None:
    """Makes a model one of which this worker has its part. All workers have the same one at first, or `weights` for it.

    Raises InputError if a module cannot be cut.
    """
    styles = dict(plan_of(model)) if tensor.size > 1 else {}
    of_experts = parts_of_experts(model, expert) if expert.size > 1 else {}

    def own(parameter: nn.Parameter) -> tuple[int, int]:
        part, width = of_experts.get(parameter), parameter.numel() // max(1, len(parameter))
        return (0, parameter.numel()) if part is None else (part.begin * width, part.end * width)

    def keep(parameter: nn.Parameter) -> None:
        part = of_experts.get(parameter) or part_in(parameter, styles.get(parameter), tensor)
        if part is not None:
            parameter.data = part.of(parameter.data).clone()
            parameter.part = part  # type: ignore[attr-defined]

    if weights is not None:
        # Each parameter is read, or drawn, whole and cut at once, so that no worker ever holds more than one of them.
        # Of experts and of a pipeline's layers, it reads only its own.
        weights.fill(model, Shards(device, dtype, own, keep, elsewhere(model, pipeline)))
    else:
        for parameter in model.parameters():
            keep(parameter)
    if tensor.size > 1:
        connect(model, tensor)
    if expert.size > 1:
        connect_experts(model, expert, tensor)
    if pipeline.size > 1:
        keep_stage(model, pipeline)
