"""Layouts of a training job over a fleet, products of all axes of workers, and how long a step takes with each."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

from rayloom.score.document_attention import DECODERS
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.computing import check_computing
from rayloom.specs.training.hardware import Fleet
from rayloom.train.sizes.estimates import flops_per_token
from rayloom.train.sizes.model_size import ModelSize
from rayloom.train.sizes.stages import stages_of, waiting_share
from rayloom.train.sizes.traffic import traffic
from rayloom.train.weights.expert_parallel import PROVEN as SPREAD
from rayloom.train.weights.stages import PROVEN as STAGED
from rayloom.train.weights.tensor_parallel import MIXTURES
from rayloom.train.weights.tensor_parallel import PROVEN as CUT

ASSUMED_UTILISATION = 0.4
"""Model FLOPs utilisation that well-tuned training reaches (Chowdhery et al. 2022, table 3: 0.3 to 0.46)."""
NETWORK_BYTES_PER_SECOND = 50e9
"""What a device sends to other nodes: 400 Gbit/s for each, as in NVIDIA's DGX H100."""
RECOMPUTING_SHARE = 1 / 3
"""Of a step's arithmetic that computing all layers' activations again adds (Chen et al. 2016)."""


def layout_of(spec: TrainSpec) -> str:
    """The settings that make the layout, as they stand in a file."""
    sharding = spec.sharding
    parts = [f"{name}: {count}" for name, count in {**sharding.axes, "zero_stage": sharding.zero_stage}.items()]
    said = f"sharding: {{{', '.join(parts)}}}"
    return said + (" with activation_checkpointing" if spec.recomputed is not None else "")


def step_seconds(spec: TrainSpec, size: ModelSize, fleet: Fleet) -> float:
    """Seconds of a step, if nothing is sent while something is computed."""
    device, workers, sent = fleet.device, spec.workers.num_workers, traffic(spec, size)
    flops = flops_per_token(size, spec.sequence_length_tokens, spec.objective_in_use) * spec.global_batch_tokens
    if spec.recomputed is not None:
        flops += round(flops * RECOMPUTING_SHARE / spec.recomputed.every_layers)
    # All stages wait for the one that computes most, and for the first and last micro-batches to flow through.
    busiest = max(stage.share for stage in stages_of(spec, size)) * spec.sharding.pipeline / (1 - waiting_share(spec))
    within, between = device.link_bytes_per_second, min(NETWORK_BYTES_PER_SECOND, device.link_bytes_per_second)
    sending = 0.0
    for num_bytes, reach in (
        (sent.tensor + sent.context, spec.sharding.in_layers),
        (sent.expert, spec.sharding.expert),
        (sent.copies, workers // spec.sharding.pipeline),
        (sent.pipeline, workers),
    ):
        sending += num_bytes / (within if reach <= fleet.devices_per_node else between)
    return busiest * flops / (device.peak_flops * ASSUMED_UTILISATION * workers) + sending


def fastest(spec: TrainSpec, size: ModelSize, fleet: Fleet, fits: Callable[[TrainSpec], bool]) -> TrainSpec | None:
    """The same job with the layout that takes the least time of those that fit; None if none fits."""
    fitting = [other for other in _layouts(spec, size, fleet) if fits(other)]
    return min(fitting, key=lambda other: step_seconds(other, size, fleet), default=None)


def counts_to_cut(size: ModelSize) -> dict[str, int]:
    """What tensor parallelism must divide."""
    heads = {"attention heads": size.num_heads, "key-value heads": size.num_key_value_heads}
    return heads if size.num_experts else heads | {"feed-forward features": size.feed_forward_size}


def _layouts(spec: TrainSpec, size: ModelSize, fleet: Fleet) -> Iterator[TrainSpec]:
    """All that can be computed with as many workers, rows and steps, and keep what is exchanged in layers in a node."""
    within, workers = range(1, fleet.devices_per_node + 1), spec.workers.num_workers
    can_cut, can_spread = size.model_type in (*CUT, *MIXTURES), size.model_type in SPREAD
    counts = counts_to_cut(size).values()
    most_stages = min(workers, size.num_layers) if size.model_type in STAGED else 1
    pipelines = [n for n in range(1, most_stages + 1) if workers % n == 0]
    tensors = [n for n in within if n == 1 or (can_cut and not any(count % n for count in counts))]
    contexts = [n for n in within if n == 1 or (size.model_type in DECODERS and size.num_heads % n == 0)]
    experts = [n for n in within if n == 1 or (can_spread and size.num_experts % n == 0)]
    recomputing = [spec.activation_checkpointing, *([] if spec.recomputed else [True])]
    for pipeline, tensor, context, expert, stage, recomputed in itertools.product(
        pipelines, tensors, contexts, experts, range(4), recomputing
    ):
        axes = {"pipeline": pipeline, "tensor": tensor, "context": context, "expert": expert, "zero_stage": stage}
        sharding = spec.sharding.model_copy(update=axes)
        other = spec.model_copy(update={"sharding": sharding, "activation_checkpointing": recomputed})
        if size.num_experts and expert % tensor:
            continue  # experts are spread, not cut
        if sharding.in_layers > fleet.devices_per_node or size.num_heads % sharding.in_layers:
            continue
        with contextlib.suppress(ValueError):
            check_computing(other)
            if spec.global_batch_sequences % (spec.micro_batch_sequences * other.num_copies) == 0:
                yield other
