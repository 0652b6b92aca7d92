"""The engine of pipeline parallelism: micro-batches flow through stages by torch's schedule of one forward pass, one
backward pass (1F1B; Narayanan et al. 2019, PipeDream).

Each worker has some of the layers and is a `plain` engine for them. All stages read the rows, so between them go only
hidden states and their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from rayloom.score.batches import Batch
from rayloom.specs.train import TrainSpec
from rayloom.train.engines.plain import PlainEngine
from rayloom.train.engines.reduction import GradientSums
from rayloom.train.precision import DTYPES, computing_precision
from rayloom.train.process_group import Group
from rayloom.train.weights.stages import LayerStage, tied_stage

Shape = tuple[int, int, int]
"""Micro-batches, rows in each, and positions in a row."""


class PipelineEngine(PlainEngine):
    """Engine for the stages of a pipeline, each with all of its optimiser state."""

    def __init__(self, spec: TrainSpec, loss: Any, group: Group) -> None:
        super().__init__(spec, loss, group)
        self._flow = _Flow(LayerStage(loss, group.pipeline))
        self._dtype = DTYPES[computing_precision(spec, group.device.type == "cuda")]
        self._shape: Shape | None = None
        self._schedule: Any = None

    def accumulate(self, batches: Sequence[Any], num_labels: int, limit: float, seed: Callable[[int], None]) -> float:
        stage, device = self.group.pipeline, self.group.device
        # The schedule needs as many micro-batches as there are stages, and all of one shape.
        missing = range(len(batches), stage.size)
        given = [*batches, *(batches[0].without_labels() for _ in missing)]
        rows, positions = (max(batch.tokens.shape[dim] for batch in given) for dim in (0, 1))
        given = [batch.padded(rows, positions).to(device) for batch in given]
        flow, numbers = self._flow, torch.arange(len(given))
        flow.batches, flow.seed, flow.total = given, seed, torch.zeros((), device=device)
        flow.factor = self.loss_scale / max(1, num_labels)
        schedule = self._schedule_for((len(given), rows, positions))
        try:
            schedule.step(number=numbers, target=numbers, return_outputs=False)
        except RuntimeError as error:
            raise error.__cause__ or error from None  # torch wraps what the stage raises, such as a lack of memory
        for sums in self._sums:
            sums.finish()
        for flat in self._flats:
            for _, parameter, view in flat.views(flat.gradients):
                other = tied_stage(parameter)
                if other is not None:
                    view += stage.from_other(other, view)
        if flow.stage.is_last:
            self.group.copies.summed(flow.total)
        mean = float(stage.sent_by(stage.size - 1, flow.total)) / max(1, num_labels)
        if not mean <= limit:
            self._gradients.fill_(math.nan)
        return mean

    def loss(self, batch: Any) -> Tensor:
        """() on the last stage the loss without its gradients, on the others 0."""
        stage, received = self.group.pipeline, None
        if stage.rank > 0:
            received = stage.received(stage.rank - 1, self._hidden(batch.tokens.shape, self.group.device))
        out: Tensor = self._flow.stage(batch, received)
        if self._flow.stage.is_last:
            return out
        stage.send(stage.rank + 1, out)
        return out.new_zeros((), dtype=torch.float32)

    def whole_weights(self) -> dict[str, Tensor] | None:
        own, stage = super().whole_weights(), self.group.pipeline
        shapes = self.group.gathered(None if own is None else {name: tensor.shape for name, tensor in own.items()})
        if own is None or stage.rank > 0:
            for tensor in (own or {}).values():
                stage.send(0, tensor.to(self.group.device))
            return None
        for other in range(1, stage.size):
            for name, shape in shapes[other * self.group.in_stage.size].items():
                empty = torch.empty(shape, dtype=self._dtype, device=self.group.device)
                own[name] = stage.received(other, empty).cpu()
        return own

    def _hidden(self, rows: Sequence[int], device: torch.device | str) -> Tensor:
        """(B, S, D) room for hidden states. `rows`: B and S."""
        return torch.empty(*rows, self.model.model.config.hidden_size, dtype=self._dtype, device=device)

    def _schedule_for(self, shape: Shape) -> Any:
        """Torch's schedule for micro-batches of this shape. It has buffers for all that a step sends."""
        if shape != self._shape:
            self._schedule = None  # frees the buffers of the last one
            stage, hidden = self._flow.stage, self._hidden(shape[1:], "meta").requires_grad_()
            loss = torch.empty((), device="meta", requires_grad=True)
            scheduled = _Scheduled(
                self._flow,
                stage.place.rank,
                stage.place.size,
                self.group.device,
                input_args=(hidden,) if stage.place.rank else (),
                output_args=loss if stage.is_last else hidden,
                group=stage.place.group,
            )
            scheduled.sums = self._sums
            self._schedule = Schedule1F1B(scheduled, shape[0], self._flow.scaled, scale_grads=False)
            self._shape = shape
        return self._schedule


class _Flow(nn.Module):
    """The micro-batches of a step on their way through a stage."""

    batches: Sequence[Batch]
    seed: Callable[[int], None]
    factor: float
    """On the loss in the backward pass."""
    total: Tensor
    """() the loss so far, on the last stage."""

    def __init__(self, stage: LayerStage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *received: Tensor, number: Tensor) -> Tensor:
        self.seed(int(number))
        out: Tensor = self.stage(self.batches[int(number)], *received)
        if self.stage.is_last:
            self.total += out.detach()
        return out

    def scaled(self, loss: Tensor, _: Tensor) -> Tensor:
        return loss * self.factor


class _Scheduled(PipelineStage):
    """Torch's stage, which begins to sum gradients over workers with the last backward pass of a step."""

    sums: Sequence[GradientSums]

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        for sums in self.sums if last_backward else ():
            sums.begin()
        super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)
