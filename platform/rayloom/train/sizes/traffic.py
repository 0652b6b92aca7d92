"""What one worker sends to others in a step, by axis; made without loading torch.

Collectives are counted as rings: of n bytes over k workers, an all-reduce sends 2n(k − 1)/k, and gathering or
scattering half of that (Patarasuk & Yuan 2009).
"""

from __future__ import annotations

from dataclasses import dataclass

from rayloom.specs.train import TrainSpec
from rayloom.train.sizes.estimates import copies_of_parts, held_by_worker, number_bytes, trained_parts
from rayloom.train.sizes.model_size import ModelSize
from rayloom.train.sizes.stages import StageSize, stages_of

GRADIENT_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Traffic:
    """Bytes that a worker sends in a step."""

    tensor: int
    """Hidden states and their gradients, to those with the other parts of the matrices."""
    context: int
    """Queries, keys, values and attention's outputs, to those with the other positions."""
    copies: int
    """Gradients, and weights if ZeRO shards them, to those with the same part of the matrices, or the same experts."""
    expert: int = 0
    """Hidden states and their gradients, to experts and back, if tokens are spread evenly."""
    pipeline: int = 0
    """Hidden states and their gradients, to those with the layers before and after; and the gradient of a matrix that
    is both embeddings and output head."""

    @property
    def total(self) -> int:
        return self.tensor + self.context + self.copies + self.expert + self.pipeline


def traffic(spec: TrainSpec, size: ModelSize) -> Traffic:
    """The bytes that a worker sends in one step of the spec; of a pipeline's, one of the stage that sends most."""
    return max((_of_stage(spec, stage) for stage in stages_of(spec, size)), key=lambda sent: sent.total)


def _of_stage(spec: TrainSpec, stage: StageSize) -> Traffic:
    size = stage.size
    hidden = spec.accumulation_steps * _positions(spec) * size.hidden_size * number_bytes(spec)
    handed_on = hidden * ((not stage.is_first) + (not stage.is_last))
    if stage.is_tied and stage.is_first != stage.is_last and size.trained == size.parameters:
        handed_on += 4 * size.vocabulary_size * size.hidden_size // spec.sharding.tensor
    return Traffic(
        tensor=_of_parts(spec, stage),
        context=_of_context(spec, size),
        copies=_of_copies(spec, size),
        expert=_of_experts(spec, size),
        pipeline=handed_on,
    )


def _of_parts(spec: TrainSpec, stage: StageSize) -> int:
    size = stage.size
    hidden = _positions(spec) * size.hidden_size * number_bytes(spec)
    # Each layer sums after attention and feed-forward, and before them in the backward pass; embeddings and head once.
    sums = 4 * size.num_layers + stage.is_first + stage.is_last + 2 * _computed_again(spec, size.num_layers)
    return spec.accumulation_steps * sums * _share(2 * hidden, spec.sharding.tensor)


def _of_context(spec: TrainSpec, size: ModelSize) -> int:
    heads = 2 * size.num_heads + 2 * max(size.num_key_value_heads, spec.sharding.in_layers)
    exchanged = _positions(spec) * heads * size.head_size * number_bytes(spec) // spec.sharding.tensor
    passes = 2 * size.num_layers + _computed_again(spec, size.num_layers)
    return spec.accumulation_steps * passes * _share(exchanged, spec.sharding.context)


def _of_experts(spec: TrainSpec, size: ModelSize) -> int:
    rows = _positions(spec) * size.experts_per_token * size.hidden_size * number_bytes(spec)
    # To the experts and back, of hidden states and of their gradients.
    passes = 4 * size.mixture_layers + 2 * _computed_again(spec, size.mixture_layers)
    return spec.accumulation_steps * passes * _share(rows // spec.sharding.tensor, spec.sharding.expert)


def _positions(spec: TrainSpec) -> int:
    """Positions of a micro-batch that a worker has."""
    return spec.micro_batch_sequences * -(-spec.sequence_length_tokens // spec.sharding.context)


def _computed_again(spec: TrainSpec, num_layers: int) -> int:
    """Of so many layers, those whose forward pass is computed again."""
    return -(-num_layers // spec.recomputed.every_layers) if spec.recomputed is not None else 0


def _of_copies(spec: TrainSpec, size: ModelSize) -> int:
    stage, passes = spec.sharding.zero_stage, spec.accumulation_steps
    parts = list(zip(trained_parts(spec, size), copies_of_parts(spec), strict=True))
    gradients = sum(_share(part * GRADIENT_BYTES[spec.sharding.reduce_precision], copies) for part, copies in parts)
    trained = sum(_share(part * number_bytes(spec), copies) for part, copies in parts)
    if stage == 0:
        return 2 * gradients
    if stage == 1:
        return gradients + trained
    if stage == 2:
        return passes * gradients + trained
    weights = _share(held_by_worker(spec, size) * number_bytes(spec), copies_of_parts(spec)[0])
    return passes * (gradients + (2 if spec.recomputed is None else 3) * weights)


def _share(num_bytes: int, workers: int) -> int:
    return num_bytes * (workers - 1) // workers
