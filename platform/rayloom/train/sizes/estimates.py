"""Arithmetic and memory of a run, worked out from sizes alone."""

from __future__ import annotations

import resource
import shutil
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from rayloom.errors import ResourceError
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
from rayloom.specs.training.hardware import device_named
from rayloom.specs.training.objectives import Causal, Masked, SpanCorruption
from rayloom.specs.training.tasks import SequenceToSequence
from rayloom.train.job import TrainJob
from rayloom.train.sizes.model_size import ModelSize

MASTER_AND_ADAM_BYTES = 12
"""fp32 master weight and two moments (Rajbhandari et al. 2020, section 3.1)."""
MASTER_AND_MOMENTUM_BYTES = 8
"""With Muon; the few weights that AdamW updates are left out of the account."""
ADAM_BYTES, ADAM_8_BIT_BYTES = 8, 2
MAX_BUCKET_ELEMENTS = 50_000_000
"""Gradients that DeepSpeed sums over the workers at once."""
FROZEN = BitFit | BottleneckAdapter | PrefixAdapter | PromptAdapter | PTuningAdapter
"""Methods that leave matrices frozen and take nothing of what these are multiplied with."""
BYTES_PER_WEIGHT = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""NF4 with a byte for each block of 64 and four for 256 of these (Dettmers et al. 2023, section 3)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss


def flops_per_token(
    size: ModelSize, sequence_length_tokens: int, objective: Causal | Masked | SpanCorruption | None = None
) -> int:
    """Forward and backward: 6 for each multiplied parameter, 12 · L · H · Q · S for attention, of H heads of size Q
    (Chowdhery et al. 2022, B).

    Frozen weights need no gradient of their own, which takes 2 of the 6 away. Of a text, an encoder-decoder reads what
    is kept and writes what is replaced, each with a sentinel for every span.
    """
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
    """Tokens that a decoder writes for each of the text: what is replaced, and a sentinel for every span of it."""
    return objective.share * (1 + 1 / objective.mean_span_tokens)


def memory_per_device(spec: TrainSpec, size: ModelSize) -> Memory:
    """What one worker's device holds at the busiest moment, which is when the loss of a micro-batch is known."""
    stage, workers = spec.sharding.zero_stage, spec.workers.num_workers
    state_bytes = MASTER_AND_ADAM_BYTES
    if spec.precision == "fp32" and not stage:
        state_bytes -= 4  # fp32 is its own master
    if spec.optimizer.type == "adamw8bit":
        state_bytes -= ADAM_BYTES - ADAM_8_BIT_BYTES
    if spec.optimizer.type == "muon":
        state_bytes -= MASTER_AND_ADAM_BYTES - MASTER_AND_MOMENTUM_BYTES
    weights = _weights(spec, size) // (workers if stage == 3 else 1)
    gradients = size.trained * 4 // (workers if stage >= 2 else 1)
    if stage == 3:
        gradients += 4 * min(size.trained, MAX_BUCKET_ELEMENTS)  # those that are on their way to their workers
    optimizer = size.trained * state_bytes // (workers if stage >= 1 else 1)
    if spec.sharding.offload.optimizer:
        optimizer = 0
    if spec.sharding.offload.parameters:
        weights = weights // size.num_layers  # the layer that is computed, and a little ahead of it
    return Memory(weights, gradients, optimizer, _activations(spec, size), _loss(spec, size))


def _weights(spec: TrainSpec, size: ModelSize) -> int:
    plain = (size.parameters - size.quantised) * _unit(spec)
    if not isinstance(spec.adapter, LoraAdapter) or spec.adapter.quantised_base is None:
        return plain
    return plain + int(size.quantised * BYTES_PER_WEIGHT[spec.adapter.quantised_base])


def _activations(spec: TrainSpec, size: ModelSize) -> int:
    """What the backward pass needs of the forward pass, for one micro-batch of dense layers."""
    unit, length = _unit(spec), spec.sequence_length_tokens
    if isinstance(spec.adapter, PromptAdapter | PTuningAdapter):
        length += spec.adapter.num_virtual_tokens
    per_layer = _kept_by_a_layer(spec, size, length)
    layers = float(size.num_layers * per_layer)
    if spec.activation_checkpointing:
        layers = per_layer + size.num_layers * unit * size.hidden_size  # one whole layer, of the others the input
    if size.multiplied_in_decoder:
        # As many layers again, over what is written; a task may write as much as it reads.
        objective = spec.objective_in_use if spec.task is None else None
        layers *= 1 + (_written_share(objective) if isinstance(objective, SpanCorruption) else 1)
    return int(spec.micro_batch_sequences * length * (layers + unit * 2 * size.hidden_size))


def _kept_by_a_layer(spec: TrainSpec, size: ModelSize, length: int) -> int:
    """Bytes for a token (as Korthikanti et al. 2022, section 4; checked in tests/integration/test_memory_estimate.py).

    Both norms' inputs and their fp32 copies, query, key, value, attention's output, the feed-forward intermediates and
    the residual sums. Without a fused kernel, attention keeps its scores in fp32 before, in and after dropout.
    """
    unit, hidden = _unit(spec), size.hidden_size
    is_t5 = size.multiplied_in_decoder > 0
    # T5 computes attention, and its gate's GELU, in single operations.
    intermediates = (8 if is_t5 else 4) if size.is_gated else 2
    kept = unit * (6 * hidden + 2 * hidden * size.num_key_value_heads // size.num_heads) + 8 * hidden
    kept += unit * intermediates * size.feed_forward_size
    if is_t5 or (size.has_attention_dropout and not spec.workers.gpus_per_worker):
        kept += 3 * 4 * size.num_heads * length
    if isinstance(spec.adapter, FROZEN):
        kept -= unit * (2 * hidden + size.feed_forward_size)
    kept += (unit + 1) * size.dropped_inputs // size.num_layers  # LoRA's own copy, and which of it are zero
    kept += 2 * unit * size.decomposed_outputs // size.num_layers  # the base's and LoRA's, to be scaled
    return kept


def _loss(spec: TrainSpec, size: ModelSize) -> int:
    """Logits of one chunk of labelled positions, in fp32, and their softmax; the gradient of a trained output layer.

    That is known before the backward pass begins (see `score.label_loss`). Heads of tasks are small.
    """
    from rayloom.score.label_loss import chunk_positions

    if spec.task is not None and not isinstance(spec.task, SequenceToSequence):
        return 0
    device = "cuda" if spec.workers.gpus_per_worker else "cpu"
    positions = spec.micro_batch_sequences * spec.sequence_length_tokens
    chunk = min(positions, chunk_positions(size.vocabulary_size, device))
    head_gradient = 4 * size.vocabulary_size * size.hidden_size if is_whole_model(spec.adapter) else 0
    # Preferences need each answer's sum before they know a gradient: logits are computed again on the way back.
    copies = 3 if spec.preference is not None else 2
    return copies * 4 * chunk * size.vocabulary_size + head_gradient


def _unit(spec: TrainSpec) -> int:
    """Bytes of a number in the precision of training."""
    return 4 if spec.precision == "fp32" else 2


def checkpoint_bytes(size: ModelSize) -> int:
    return size.trained * MASTER_AND_ADAM_BYTES


# Whether the disk has room for what a run writes: checkpoints, and its finished weights.

FP32_BYTES, HALF_BYTES = 4, 2


def disk_bytes(spec: TrainSpec, size: ModelSize) -> int:
    """The most that a run holds at once: the checkpoints that it keeps, the one that is being written, the result."""
    saved = size.parameters if is_whole_model(spec.adapter) else size.trained
    result = saved * (FP32_BYTES if spec.precision == "fp32" else HALF_BYTES)
    best = result if spec.early_stopping is not None else 0
    return (spec.checkpoints.keep + 1) * checkpoint_bytes(size) + result + best


def no_room(spec: TrainSpec, size: ModelSize, folder: Path) -> ResourceError | None:
    """What to do where the run does not fit into the folder of its checkpoints; those that are there count in."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    mine = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free, needed = shutil.disk_usage(existing).free + mine, disk_bytes(spec, size)
    if needed <= free:
        return None
    keep = spec.checkpoints.keep
    what = (
        f"The run needs {needed / 1e9:,.1f} GB of disk ({keep} checkpoints of {checkpoint_bytes(size) / 1e9:,.1f} GB, "
        f"the next one and the result), and {free / 1e9:,.1f} GB are free"
    )
    lower = "set checkpoints.keep: 1, " if keep > 1 else ""
    return ResourceError(
        what, where=str(existing), fix=f"Make room there, {lower}or name another store with RAYLOOM_STORE."
    )


def check_room(job: TrainJob, size: ModelSize) -> None:
    """Raises ResourceError where the run would fill the disk that its work folder is on."""
    error = no_room(job.spec, size, job.checkpoints)
    if error is not None:
        raise error


# How fast this process' device multiplies matrices: what the speed of training is measured against.

SIDE = {"cpu": 512, "cuda": 8192}
REPEATS = {"cpu": 5, "cuda": 10}


def data_sheet_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s that the maker states, if the device is a GPU of the table in `specs.training.hardware`."""
    known = device_named(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if known is None or (dtype == torch.float32 and not known.has_bf16):
        return None
    return known.peak_flops / (2 if dtype == torch.float32 else 1)  # in fp32 by TF32, at half the speed


def use_tensor_cores(device: torch.device) -> None:
    """Lets a GPU multiply fp32 matrices in TF32: inputs rounded to 10 bits of mantissa, sums in fp32."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = "tf32"


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square product in this arithmetic; milliseconds on a CPU, about a tenth of a second on a GPU."""
    side = SIDE.get(device.type, 2048)
    one = torch.rand(side, side, device=device).to(dtype)
    torch.mm(one, one)
    seconds = [_seconds(one) for _ in range(REPEATS.get(device.type, 5))]
    return float(2 * side**3 / min(statistics.median(seconds), seconds[-1]))


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held at once: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _seconds(one: torch.Tensor) -> float:
    if one.device.type == "cuda":
        torch.cuda.synchronize(one.device)
    started = time.perf_counter()
    torch.mm(one, one)
    if one.device.type == "cuda":
        torch.cuda.synchronize(one.device)
    return time.perf_counter() - started
