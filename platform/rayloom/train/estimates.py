"""Arithmetic and memory of a run, worked out from sizes alone."""

from __future__ import annotations

from dataclasses import dataclass

from rayloom.specs.objectives import Causal, Masked, SpanCorruption
from rayloom.specs.train import TrainSpec
from rayloom.train.sizes import ModelSize

MASTER_AND_ADAM_BYTES = 12
"""fp32 master weight and two moments (Rajbhandari et al. 2020, section 3.1)."""
MASTER_AND_MOMENTUM_BYTES = 8


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def flops_per_token(
    size: ModelSize, sequence_length_tokens: int, objective: Causal | Masked | SpanCorruption | None = None
) -> int:
    """Forward and backward: 6 for each multiplied parameter, 12 · L · D · S for attention (Chowdhery et al. 2022, B).

    Frozen weights need no gradient of their own, which takes 2 of the 6 away. Of a text, an encoder-decoder reads what
    is kept and writes what is replaced, each with a sentinel for every span.
    """
    attention = 12 * size.num_layers * size.hidden_size * sequence_length_tokens
    per_parameter = 6 if size.trained == size.parameters else 4
    if not isinstance(objective, SpanCorruption):
        return per_parameter * size.multiplied + attention
    spans = objective.share / objective.mean_span_tokens
    read, written = 1 - objective.share + spans, objective.share + spans
    in_encoder = size.multiplied - size.multiplied_in_decoder
    met = in_encoder * read + size.multiplied_in_decoder * written
    return int(per_parameter * met + attention * (read * read + written * written + read * written))


def memory_per_device(spec: TrainSpec, size: ModelSize) -> Memory:
    """What one worker's device holds at the busiest moment."""
    stage, workers = spec.sharding.zero_stage, spec.workers.num_workers
    in_bf16 = spec.precision == "bf16"
    weight_bytes = 2 if in_bf16 else 4
    state_bytes = MASTER_AND_ADAM_BYTES if in_bf16 or stage else MASTER_AND_ADAM_BYTES - 4  # fp32 is its own master
    weights = size.parameters * weight_bytes // (workers if stage == 3 else 1)
    gradients = size.trained * 4 // (workers if stage >= 2 else 1)
    optimizer = size.trained * state_bytes // (workers if stage >= 1 else 1)
    return Memory(weights, gradients, optimizer, _activations(spec, size))


def _activations(spec: TrainSpec, size: ModelSize) -> int:
    """What the backward pass needs of the forward pass, for one micro-batch (as Korthikanti et al. 2022, section 4).

    Per token and layer: both norms' inputs and their fp32 copies, query, key, value, attention's output, the three
    feed-forward intermediates, and the residual sums.
    """
    tokens = spec.micro_batch_sequences * spec.sequence_length_tokens
    unit = 2 if spec.precision == "bf16" else 4
    key_values = size.hidden_size * size.num_key_value_heads // size.num_heads
    per_layer = unit * (6 * size.hidden_size + 2 * key_values + 4 * size.feed_forward_size) + 8 * size.hidden_size
    return tokens * (size.num_layers * per_layer + unit * 2 * size.hidden_size)


def checkpoint_bytes(size: ModelSize) -> int:
    return size.trained * MASTER_AND_ADAM_BYTES
