"""Expert parallelism: of each mixture of experts, each worker holds some experts (Lepikhin et al. 2020, GShard).

Which parameters are experts' is transformers' plan for the architecture. A worker's experts are plain parameters with
fewer of them, as in tensor parallelism (`tensor_parallel`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from rayloom.errors import InputError
from rayloom.score.parallel.axis import Axis
from rayloom.score.parallel.experts import spread_experts
from rayloom.train.weights.parts import Part

PROVEN = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
"""Model types whose spread experts are tested to give what one worker's give (tests/unit/test_expert_parallel.py)."""
BY_EXPERT, DISPATCHED = "grouped_gemm", "ep_dispatch_experts"
"""transformers' names for parameters that are cut by their first dimension, that of experts, and for their modules."""


def check_experts(config: Any, num_workers: int) -> None:
    """Raises InputError if the experts of a model of this configuration cannot be spread over so many workers."""
    what = f"sharding.expert is {num_workers}, and "
    if config.model_type not in PROVEN:
        fix = f"Leave sharding.expert out; models with experts that can be spread: {', '.join(PROVEN)}."
        raise InputError(f"{what}a model of type {config.model_type} has no experts that can be spread here", fix=fix)
    if config.num_experts % num_workers:
        fitting = max(n for n in range(1, num_workers) if not config.num_experts % n)
        fix = f"Set sharding.expert: {fitting}."
        raise InputError(f"{what}it does not divide the base's {config.num_experts} experts", fix=fix)


def experts_of(model: Any) -> Iterator[nn.Module]:
    """The modules that hold the experts of a layer each."""
    return (module for name, module in model.named_modules() if _planned(model, name) == DISPATCHED)


def parts_of_experts(model: Any, axis: Axis) -> dict[nn.Parameter, Part]:
    """This worker's part of each experts' parameter of a whole model."""
    parts = {}
    for name, parameter in model.named_parameters():
        if _planned(model, name) == BY_EXPERT:
            parts[parameter] = Part(parameter.shape, 0, *axis.share(len(parameter)), along="expert")
    return parts


def connect_experts(model: Any, axis: Axis, tensor: Axis) -> None:
    """Lets tokens go to the workers with their experts, and back. `tensor`: those that have the same tokens."""
    for module in experts_of(model):
        spread_experts(module, axis, tensor)


def _planned(model: Any, name: str) -> str | None:
    plan = (model.get_base_model() if hasattr(model, "get_base_model") else model).ep_plan
    path = name.removeprefix("base_model.model.").split(".")
    return plan.get(".".join("*" if part.isdigit() else part for part in path))  # type: ignore[no-any-return]
