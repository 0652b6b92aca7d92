"""What the loop asks of an engine, and the choice of one.

`plain` keeps everything on every worker (ZeRO stage 0): nothing but torch, the fastest for one worker and for adapters.
`zero` is DeepSpeed, which shards optimiser state, gradients and weights (stages 1, 2, 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from rayloom.specs.train import TrainSpec
from rayloom.train.engines.fragments import Fragment, FragmentReader
from rayloom.train.objectives.objective import TrainBatch
from rayloom.train.process_group import Group


class Engine(Protocol):
    """Owns weights, gradients and optimiser state. Every worker makes the same calls in the same order."""

    model: Any
    """The loss module."""
    loss_scale: float
    """What losses are multiplied by in the backward pass, and gradients divided by before they are used."""

    @property
    def num_updates(self) -> int:
        """Updates applied so far; part of what AdamW corrects its means by."""

    def loss(self, batch: TrainBatch) -> Tensor:
        """() sum of −log p over the batch's labels."""

    def backward(self, scaled_loss: Tensor, is_last: bool) -> None:
        """Adds to the gradients. `is_last`: no more follows before `step`.

        `scaled_loss` is this worker's part of what the step minimises; the parts of all workers are summed. A scale of
        NaN makes the step do nothing.
        """

    def step(self, learning_rate: float) -> float:
        """Clips and applies the gradients; their norm. Where it is not finite nothing was applied."""

    def fragments(self) -> Iterator[Fragment]:
        """What this worker keeps of weights (fp32) and optimiser state. Views: copy before the next step."""

    def restore(self, reader: FragmentReader, num_updates: int) -> None:
        """Puts back what `fragments` of any engine on any number of workers gave."""

    def whole_weights(self) -> dict[str, Tensor] | None:
        """The trained parameters by name, in the precision of training; None except on the first worker."""

    def close(self) -> None:
        """Leaves the process as it was before the engine."""


def engine_for(spec: TrainSpec, loss: nn.Module, group: Group) -> Engine:
    """The engine that the spec's sharding asks for, around a loss module (see `Objective.loss_of`)."""
    if spec.sharding.zero_stage == 0:
        from rayloom.train.engines.plain import PlainEngine

        return PlainEngine(spec, loss, group)
    from rayloom.train.engines.zero import ZeroEngine

    return ZeroEngine(spec, loss, group)
