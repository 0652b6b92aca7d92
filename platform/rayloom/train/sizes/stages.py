"""How the layers of a model are spread over the stages of a pipeline, and what each has; made without loading torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from rayloom.specs.train import TrainSpec
from rayloom.train.sizes.model_size import ModelSize


@dataclass(frozen=True)
class StageSize:
    """A stage of a pipeline; a model that is not cut is one stage."""

    size: ModelSize
    """Of its part of the model."""
    share: float
    """Its part of the arithmetic."""
    is_first: bool = True
    is_last: bool = True
    is_tied: bool = False
    """Whether the first and the last stage have the same matrix."""
    in_flight: int = 1
    """Micro-batches whose activations it keeps at the same time (Narayanan et al. 2021, section 2.2)."""


def layers_of_stages(num_layers: int, layers_of_head: float, num_stages: int) -> list[range]:
    """The layers of each stage, such that all of them compute about equally much, and each at least one.

    `layers_of_head`: the output head's parameters in layers' parameters. The last stage has it, and fewer layers.
    """
    each, ends = (num_layers + layers_of_head) / num_stages, [0]
    for stage in range(1, num_stages):
        least, most = ends[-1] + 1, num_layers - (num_stages - stage)
        ends.append(min(max(round(each * stage), least), most))
    ends.append(num_layers)
    return [range(begin, end) for begin, end in pairwise(ends)]


def stages_of(spec: TrainSpec, size: ModelSize) -> list[StageSize]:
    """The stages of the spec's layout. Where embeddings and output head are one matrix, both ends have it."""
    num_stages, layers = spec.sharding.pipeline, size.num_layers
    if num_stages == 1:
        return [StageSize(size, 1.0)]
    table = size.vocabulary_size * size.hidden_size
    is_tied = size.parameters - size.multiplied < table
    in_layers = size.parameters - table * (1 if is_tied else 2)
    layers_of_head = table * layers / (size.multiplied - table)
    found = []
    for number, own in enumerate(layers_of_stages(layers, layers_of_head, num_stages)):
        is_first, is_last = number == 0, number == num_stages - 1
        held = in_layers * len(own) // layers + table * (is_first + is_last)
        part = replace(
            size,
            parameters=held,
            trained=held if size.trained == size.parameters else size.trained * len(own) // layers,
            num_layers=len(own),
            dropped_inputs=size.dropped_inputs * len(own) // layers,
        )
        share = (len(own) + layers_of_head * is_last) / (layers + layers_of_head)
        in_flight = min(num_stages - number, spec.accumulation_steps)
        found.append(StageSize(part, share, is_first, is_last, is_tied, in_flight))
    return found


def waiting_share(spec: TrainSpec) -> float:
    """Of a step's time, what each stage waits for others while micro-batches flow in and out."""
    idle = spec.sharding.pipeline - 1
    return idle / (spec.accumulation_steps + idle)
