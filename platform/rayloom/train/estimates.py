"""Arithmetic and memory of a run, worked out from sizes alone."""

from __future__ import annotations

from dataclasses import dataclass

from rayloom.specs.objectives import Causal, Masked, SpanCorruption
from rayloom.specs.train import TrainSpec
from rayloom.train.sizes import ModelSize

MASTER_AND_ADAM_BYTES = 12
"""fp32 master weight and two moments (Rajbhandari et al. 2020, section 3.1)."""
MASTER_AND_MOMENTUM_BYTES = 8
"""With Muon; the few weights that AdamW updates are left out of the account."""
ADAM_BYTES, ADAM_8_BIT_BYTES = 8, 2


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
    is_half = spec.precision != "fp32"
    weight_bytes = 2 if is_half else 4
    state_bytes = MASTER_AND_ADAM_BYTES if is_half or stage else MASTER_AND_ADAM_BYTES - 4  # fp32 is its own master
    weights = size.parameters * weight_bytes // (workers if stage == 3 else 1)
    if spec.optimizer.type == "adamw8bit":
        state_bytes -= ADAM_BYTES - ADAM_8_BIT_BYTES
    if spec.optimizer.type == "muon":
        state_bytes -= MASTER_AND_ADAM_BYTES - MASTER_AND_MOMENTUM_BYTES
    gradients = size.trained * 4 // (workers if stage >= 2 else 1)
    optimizer = size.trained * state_bytes // (workers if stage >= 1 else 1)
    if spec.sharding.offload.optimizer:
        optimizer = 0
    if spec.sharding.offload.parameters:
        weights = weights // size.num_layers  # the layer that is computed, and a little ahead of it
    return Memory(weights, gradients, optimizer, _activations(spec, size))


def _activations(spec: TrainSpec, size: ModelSize) -> int:
    """What the backward pass needs of the forward pass, for one micro-batch (as Korthikanti et al. 2022, section 4).

    Per token and layer: both norms' inputs and their fp32 copies, query, key, value, attention's output, the three
    feed-forward intermediates, and the residual sums.
    """
    tokens = spec.micro_batch_sequences * spec.sequence_length_tokens
    unit = 4 if spec.precision == "fp32" else 2
    key_values = size.hidden_size * size.num_key_value_heads // size.num_heads
    per_layer = unit * (6 * size.hidden_size + 2 * key_values + 4 * size.feed_forward_size) + 8 * size.hidden_size
    layers = size.num_layers * per_layer
    if spec.activation_checkpointing:
        layers = per_layer + size.num_layers * unit * size.hidden_size  # one whole layer, of the others the input
    return tokens * (layers + unit * 2 * size.hidden_size)


def checkpoint_bytes(size: ModelSize) -> int:
    return size.trained * MASTER_AND_ADAM_BYTES
