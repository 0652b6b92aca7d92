"""The interface between the training loop and its engines, and the choice of an engine.

`plain` replicates everything on every worker (ZeRO stage 0). It needs only torch, and is the fastest for one worker and
for adapters. `zero` uses DeepSpeed, which shards optimiser state, gradients and weights (stages 1, 2, 3).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import is_whole_model
from rayloom.train.engines.fragments import Fragment, FragmentReader
from rayloom.train.objectives.objective import TrainBatch
from rayloom.train.precision import DTYPES, computing_precision
from rayloom.train.process_group import Group
from rayloom.train.weights.layout import make_parts
from rayloom.train.weights.sharded import ShardedWeights

if TYPE_CHECKING:
    from rayloom.train.engines.zero import ZeroEngine  # loads DeepSpeed


class Engine(Protocol):
    """Owns weights, gradients and optimiser state. All workers make the same calls in the same order."""

    model: Any
    """The loss module."""
    group: Group
    loss_scale: float
    """Factor on the loss in the backward pass; gradients are divided by it before they are used."""

    @property
    def num_updates(self) -> int:
        """Updates applied so far; AdamW's bias correction depends on it."""

    def accumulate(
        self, batches: Sequence[TrainBatch], num_labels: int, limit: float, seed: Callable[[int], None]
    ) -> float:
        """Adds this worker's micro-batches of a step to the gradients; returns the mean loss over `num_labels`.

        `num_labels`: those of the global batch. With a mean above `limit`, or NaN, the step will change nothing.
        `seed`: called before each micro-batch with its number, for what is drawn in it.
        """

    def loss(self, batch: TrainBatch) -> Tensor:
        """() sum of −log p over the batch's labels."""

    def backward(self, scaled_loss: Tensor, is_last: bool) -> None:
        """Adds to the gradients. `is_last`: this is the last call before `step`.

        `scaled_loss` is this worker's part of the loss; the gradients of all workers are summed. If it is NaN, the step
        changes nothing.
        """

    def step(self, learning_rate: float) -> float:
        """Clips and applies the gradients; returns their norm. If it is not finite, nothing was applied."""

    def fragments(self) -> Iterator[Fragment]:
        """This worker's part of the fp32 weights and the optimiser state, as views: copy them before the next step."""

    def restore(self, reader: FragmentReader, num_updates: int) -> None:
        """Restores weights and optimiser state from fragments that any engine on any number of workers wrote."""

    def whole_weights(self) -> dict[str, Tensor] | None:
        """The trained parameters by name, in the precision of training, on the first worker; None on the others."""

    def close(self) -> None:
        """Undoes what the engine changed in the process."""


def engine_for(spec: TrainSpec, loss: nn.Module, group: Group, weights: ShardedWeights | None = None) -> Engine:
    """The engine for the spec's ZeRO stage, around a loss module (see `Objective.loss_of`).

    `weights`: those of a model that is still on the meta device, for stage 3 and for tensor, expert and pipeline
    parallelism, which are done to the model here.
    """
    if group.tensor.size > 1 or group.expert.size > 1 or group.pipeline.size > 1:
        is_whole = is_whole_model(spec.adapter)
        dtype = torch.float32 if is_whole else DTYPES[computing_precision(spec, group.device.type == "cuda")]
        make_parts(loss.model, weights, group.tensor, group.device, dtype, group.expert, group.pipeline)
        weights = None
    if group.pipeline.size > 1:
        from rayloom.train.engines.pipeline import PipelineEngine

        return PipelineEngine(spec, loss, group)
    if spec.sharding.zero_stage == 0:
        from rayloom.train.engines.plain import PlainEngine

        return PlainEngine(spec, loss, group)
    return zero_engine()(spec, loss, group, weights)


def zero_engine() -> type[ZeroEngine]:
    """The engine with DeepSpeed, whose tuner, which is not used here, would import MLflow, and that Polars and FastAPI:
    1,061 modules and 1.8 CPU seconds in each worker."""
    with _absent("mlflow"):
        from rayloom.train.engines.zero import ZeroEngine

        return ZeroEngine


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """In the block, importing the module fails as if it were not installed, unless it is loaded already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment] # which importlib's finders take for "not there"
    try:
        yield
    finally:
        del sys.modules[module]
