"""Estimates of a run's FLOPs, device memory and checkpoints from the model's size; made without loading torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import (
    BitFit,
    BottleneckAdapter,
    LoraAdapter,
    PrefixAdapter,
    PromptAdapter,
    PTuningAdapter,
    is_whole_model,
)
from rayloom.specs.training.objectives import Causal, Masked, SpanCorruption
from rayloom.specs.training.tasks import SequenceToSequence
from rayloom.train.sizes.model_size import ModelSize
from rayloom.train.sizes.stages import StageSize, stages_of

MASTER_AND_ADAM_BYTES = 12
"""fp32 master weight and two moments (Rajbhandari et al. 2020, section 3.1)."""
MASTER_AND_MOMENTUM_BYTES = 8
"""The same with Muon, counting all weights as updated by it."""
ADAM_BYTES, ADAM_8_BIT_BYTES = 8, 2
MAX_BUCKET_ELEMENTS = 50_000_000
"""Elements of DeepSpeed's largest communication bucket."""
FROZEN = BitFit | BottleneckAdapter | PrefixAdapter | PromptAdapter | PTuningAdapter
"""Methods with frozen matrices that do not need the inputs of these matrices in the backward pass."""
BYTES_PER_WEIGHT = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""NF4: 4 bits, 1 byte for each block of 64, and 4 bytes for each 256 blocks (Dettmers et al. 2023, section 3)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    reference: int = 0
    """What training compares with: a teacher's weights, and where the base's were."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss + self.reference


def flops_per_token(
    size: ModelSize, sequence_length_tokens: int, objective: Causal | Masked | SpanCorruption | None = None
) -> int:
    """FLOPs of forward and backward pass for each token (Chowdhery et al. 2022, appendix B).

    6 for each multiplied parameter, and 12 · L · H · Q · S for attention with H heads of size Q. Frozen weights need no
    weight gradient: 4 instead of 6. With span corruption, the encoder reads the kept tokens and the decoder writes the
    replaced ones, each with a sentinel for every span. A teacher has the forward pass only, a third of all.
    """
    if size.of_teacher is not None:
        alone = flops_per_token(replace(size, of_teacher=None), sequence_length_tokens, objective)
        return alone + flops_per_token(size.of_teacher, sequence_length_tokens, objective) // 3
    attention = 12 * size.num_layers * size.num_heads * size.head_size * sequence_length_tokens
    per_parameter = 6 if size.trained == size.parameters else 4
    if not isinstance(objective, SpanCorruption):
        return per_parameter * size.multiplied + attention
    written = _written_share(objective)
    read = written + 1 - 2 * objective.share
    in_encoder = size.multiplied - size.multiplied_in_decoder
    met = in_encoder * read + size.multiplied_in_decoder * written
    return int(per_parameter * met + attention * (read * read + written * written + read * written))


def _written_share(objective: SpanCorruption) -> float:
    """Target tokens for each token of text: the replaced ones, and a sentinel for every span."""
    return objective.share * (1 + 1 / objective.mean_span_tokens)


def memory_per_device(spec: TrainSpec, size: ModelSize) -> Memory:
    """Peak memory of one worker's device, which is reached when the loss of a micro-batch is computed.

    Of a pipeline, that of the stage which needs most.
    """
    return max((_memory_of(spec, stage) for stage in stages_of(spec, size)), key=lambda memory: memory.total)


def _memory_of(spec: TrainSpec, of_stage: StageSize) -> Memory:
    stage, size = spec.sharding.zero_stage, of_stage.size
    workers = copies_of_parts(spec)[0]
    state_bytes = MASTER_AND_ADAM_BYTES
    if _computes_in_fp32(spec) and not stage:
        state_bytes -= 4  # in fp32 there is no separate master copy
    if spec.optimizer.type == "adamw8bit":
        state_bytes -= ADAM_BYTES - ADAM_8_BIT_BYTES
    if spec.optimizer.type == "muon":
        state_bytes -= MASTER_AND_ADAM_BYTES - MASTER_AND_MOMENTUM_BYTES
    weights = _weights(spec, size) // (workers if stage == 3 else 1)
    trained, cut = trained_by_worker(spec, size), _trained_by_one_alone(spec, size)
    gradients = 4 * (cut if stage >= 2 else trained)
    if stage == 0 and workers > 1 and spec.sharding.reduce_precision == "bf16":
        gradients += trained * 2  # what is sent
    if stage == 3:
        gradients += 4 * min(trained, MAX_BUCKET_ELEMENTS)  # the bucket that is being reduced
    optimizer = state_bytes * (cut if stage >= 1 else trained)
    if spec.sharding.offload.optimizer:
        optimizer = 0
    if spec.sharding.offload.parameters:
        weights = weights // size.num_layers  # about one layer at a time is on the device
    # A teacher's activations are gone before the student's loss is computed.
    reference = size.of_teacher.parameters * number_bytes(spec) if size.of_teacher is not None else 0
    held = [
        4 + number_bytes(spec) if one.type == "ewc" else number_bytes(spec)
        for one in spec.retain
        if one.type != "old_model"
    ]
    reference += size.trained * max(held, default=0)
    loss = _loss(spec, size) if of_stage.is_last else 0
    return Memory(weights, gradients, optimizer, _activations(spec, of_stage), loss, reference)


def trained_by_worker(spec: TrainSpec, size: ModelSize) -> int:
    """Trained parameters that a worker computes gradients of. Of LoRA's pairs, tensor parallelism cuts one matrix or
    the other: all are counted."""
    return sum(trained_parts(spec, size))


def trained_parts(spec: TrainSpec, size: ModelSize) -> tuple[int, int]:
    """The same, without experts and of experts."""
    others = size.trained - size.trained_experts
    return (
        others // (spec.sharding.tensor if is_whole_model(spec.adapter) else 1),
        size.trained_experts // spec.sharding.expert,
    )


def copies_of_parts(spec: TrainSpec) -> tuple[int, int]:
    """The workers that have the same part of other weights, and the same experts."""
    workers = spec.workers.num_workers // spec.sharding.pipeline
    return workers // spec.sharding.tensor, workers // spec.sharding.expert


def _trained_by_one_alone(spec: TrainSpec, size: ModelSize) -> int:
    """Trained parameters of which a worker keeps what ZeRO cuts."""
    return sum(part // copies for part, copies in zip(trained_parts(spec, size), copies_of_parts(spec), strict=True))


def held_by_worker(spec: TrainSpec, size: ModelSize) -> int:
    """Parameters that a worker has, before ZeRO cuts them."""
    others = size.parameters - size.experts - size.quantised
    return others // spec.sharding.tensor + size.experts // spec.sharding.expert


def _weights(spec: TrainSpec, size: ModelSize) -> int:
    plain = held_by_worker(spec, size) * number_bytes(spec)
    if spec.policy is not None and spec.policy.kl is not None and is_whole_model(spec.adapter):
        plain *= 2  # the reference
    if not isinstance(spec.adapter, LoraAdapter) or spec.adapter.quantised_base is None:
        return plain
    return plain + int(size.quantised * BYTES_PER_WEIGHT[spec.adapter.quantised_base])


def _activations(spec: TrainSpec, stage: StageSize) -> int:
    """Bytes of activations that are kept for the backward pass of a micro-batch, or of those in flight (dense layers).

    Torch's schedule of a pipeline keeps what all micro-batches of a step receive, hidden states and their gradients.
    """
    size, unit, length = stage.size, number_bytes(spec), spec.sequence_length_tokens
    if isinstance(spec.adapter, PromptAdapter | PTuningAdapter):
        length += spec.adapter.num_virtual_tokens
    per_layer = _kept_by_a_layer(spec, size, length)
    at_once, layers = 0.0, float(size.num_layers * per_layer)
    if spec.recomputed is not None:
        # One whole layer at a time, what the others keep of theirs, and the layers that keep everything.
        fewer = -(-size.num_layers // spec.recomputed.every_layers)
        kept = unit * size.hidden_size + (_products_of_a_layer(spec, size) if spec.recomputed.keep == "products" else 0)
        at_once, layers = per_layer, fewer * kept + (size.num_layers - fewer) * per_layer
    if size.multiplied_in_decoder:
        # The decoder has as many layers, over the target; a task's target may be as long as its input.
        objective = spec.objective_in_use if spec.task is None else None
        both = 1 + (_written_share(objective) if isinstance(objective, SpanCorruption) else 1)
        at_once, layers = at_once * both, layers * both
    hidden = unit * size.hidden_size
    received = spec.accumulation_steps * hidden * ((not stage.is_first) + (not stage.is_last))
    kept_at_once = at_once + stage.in_flight * (layers + 2 * hidden) + received
    return int(spec.micro_batch_sequences * -(-length // spec.sharding.context) * kept_at_once)


def _products_of_a_layer(spec: TrainSpec, size: ModelSize) -> int:
    """Bytes for each token of the results of a layer's matrix products and of attention."""
    in_parts = 2 * size.hidden_size + 2 * size.hidden_size * size.num_key_value_heads // size.num_heads
    in_parts += (2 if size.is_gated else 1) * size.feed_forward_size
    return number_bytes(spec) * (2 * size.hidden_size + in_parts // spec.sharding.tensor)


def _kept_by_a_layer(spec: TrainSpec, size: ModelSize, length: int) -> int:
    """Bytes that a layer keeps for each token (after Korthikanti et al. 2022, section 4).

    Both norms' inputs and their fp32 copies, query, key, value, attention's output, the feed-forward intermediates and
    the residual sums. Without a fused kernel, attention keeps its fp32 scores before, during and after dropout. Checked
    against measurements in tests/integration/test_memory_estimate.py. With tensor parallelism, a worker has a part of
    what heads and feed-forward features compute, and all of the rest.
    """
    unit, hidden = number_bytes(spec), size.hidden_size
    is_t5, is_fused = size.multiplied_in_decoder > 0, spec.kernels == "liger"
    # T5 has no fused kernels for attention and for its gate's GELU.
    intermediates = (8 if is_t5 else 4 - is_fused) if size.is_gated else 2
    in_parts = unit * (2 * hidden + 2 * hidden * size.num_key_value_heads // size.num_heads)
    in_parts += unit * intermediates * size.feed_forward_size
    if is_t5 or (size.has_attention_dropout and not spec.workers.gpus_per_worker):
        in_parts += 3 * 4 * size.num_heads * length
    in_parts += unit * 2 * hidden * size.experts_per_token  # what each expert reads and gives
    # Liger's norms keep no fp32 copies, and its gate computes the SiLU again.
    kept = unit * 4 * hidden + (0 if is_fused else 8 * hidden) + in_parts // spec.sharding.tensor
    kept += 2 * (4 + unit) * size.num_experts  # the router's logits and probabilities, and their fp32 copies
    if isinstance(spec.adapter, FROZEN):
        kept -= unit * (2 * hidden + size.feed_forward_size)
    kept += (unit + 1) * size.dropped_inputs // size.num_layers  # LoRA's dropout: its output and its mask
    kept += 2 * unit * size.decomposed_outputs // size.num_layers  # outputs of base and LoRA, which DoRA scales
    return kept


def _loss(spec: TrainSpec, size: ModelSize) -> int:
    """Bytes for the loss: fp32 logits and softmax of a chunk of positions, and a trained output layer's gradient.

    That gradient is computed in the forward pass (see `score.label_loss`). Task heads are small and count as 0.
    """
    from rayloom.score.label_loss import chunk_positions

    if spec.prompt is not None:
        return 3 * 4 * spec.micro_batch_sequences * size.vocabulary_size
    if spec.task is not None and not isinstance(spec.task, SequenceToSequence):
        return 0
    device = "cuda" if spec.workers.gpus_per_worker else "cpu"
    positions = spec.micro_batch_sequences * -(-spec.sequence_length_tokens // spec.sharding.context)
    chunk = min(positions, chunk_positions(size.vocabulary_size, device))
    head_gradient = 4 * size.vocabulary_size * size.hidden_size if is_whole_model(spec.adapter) else 0
    # Preference losses need an answer's sum before any gradient, so logits are recomputed in the backward pass.
    # A teacher's logits, and what both distributions are made of, stand beside the student's.
    keeps_logits = spec.preference is not None or spec.policy is not None
    copies = (3 if keeps_logits else 2) + (4 if size.of_teacher is not None else 0)
    compared = 0
    if spec.teacher is not None and spec.teacher.hidden_states_weight is not None and size.of_teacher is not None:
        # All the teacher's states, and for each of the student's layers the fp32 differences from them.
        of_layers = size.of_teacher.num_layers * number_bytes(spec) + 4 * size.num_layers
        compared = of_layers * positions * size.hidden_size
    return (copies * 4 * chunk * size.vocabulary_size + head_gradient) // spec.sharding.tensor + compared


def number_bytes(spec: TrainSpec) -> int:
    """Bytes of a number in the precision that the worker computes in."""
    return 4 if _computes_in_fp32(spec) else 2


def _computes_in_fp32(spec: TrainSpec) -> bool:
    from rayloom.train.precision import computing_precision  # asks torch what the processor can do

    return computing_precision(spec, spec.workers.gpus_per_worker > 0) == "fp32"


def checkpoint_bytes(size: ModelSize) -> int:
    return size.trained * MASTER_AND_ADAM_BYTES
