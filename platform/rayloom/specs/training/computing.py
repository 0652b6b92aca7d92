"""Which optimisers, layers and number formats of a training job can be computed together, and on which devices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rayloom.specs.training.adapters import LoraAdapter
from rayloom.specs.training.architectures import DecoderArchitecture
from rayloom.specs.training.kernels import check_kernels

if TYPE_CHECKING:
    from rayloom.specs.train import TrainSpec


def check_computing(spec: TrainSpec) -> None:
    """Raises ValueError for the first combination that cannot be computed."""
    _check_optimizer(spec)
    _check_layers(spec)
    check_kernels(spec)
    _check_device(spec)
    _check_layout(spec)
    _check_router(spec)


def _check_optimizer(spec: TrainSpec) -> None:
    if spec.optimizer.type == "muon" and spec.sharding.zero_stage == 3:
        raise ValueError("optimizer muon needs whole matrices, which sharding.zero_stage 3 cuts up: use stage 2")
    if spec.optimizer.type == "muon" and spec.adapter.type != "none":
        raise ValueError("optimizer muon is for whole weights; adapters are trained with adamw")
    if spec.optimizer.type == "adamw8bit" and spec.sharding.zero_stage:
        raise ValueError("optimizer adamw8bit is for sharding.zero_stage 0; with stages 1 to 3 use adamw")
    if spec.optimizer.type == "muon" and spec.sharding.offload.optimizer:
        raise ValueError("optimizer muon multiplies matrices, which sharding.offload would do on the CPU: use adamw")


def _check_layers(spec: TrainSpec) -> None:
    if spec.compile and spec.sharding.zero_stage == 3:
        raise ValueError(
            "compile does not see through zero_stage 3's gathering of weights: use stage 2, or not compile"
        )
    if spec.recomputed is not None and spec.recomputed.keep == "products" and spec.compile:
        raise ValueError(
            "activation_checkpointing.keep: products sees no operations inside compiled layers: "
            "use every_layers, or not compile"
        )
    if spec.recomputed is not None and spec.adapter.type == "prefix":
        raise ValueError("activation_checkpointing computes layers again without the prefix: use lora")


def _check_device(spec: TrainSpec) -> None:
    on_gpu = spec.workers.gpus_per_worker > 0
    if spec.precision == "fp16" and not on_gpu:
        raise ValueError("precision fp16 is for GPUs (workers.gpus_per_worker: 1); on CPUs use bf16")
    if spec.optimizer.type == "adamw8bit" and not on_gpu:
        raise ValueError("optimizer adamw8bit is for GPUs (workers.gpus_per_worker: 1); on CPUs use adamw")


def _check_layout(spec: TrainSpec) -> None:
    """What sharding's axes of workers are proven with; the rest is refused, with what works instead."""
    sharding, workers = spec.sharding, spec.workers
    if not sharding.axes:
        return
    where = "sharding." + " and ".join(f"{name} {size}" for name, size in sharding.axes.items())
    unit = math.lcm(sharding.together, sharding.expert)
    if workers.num_workers % unit:
        below = workers.num_workers // unit * unit
        nearest = f"{below} or {below + unit}" if below else str(unit)
        raise ValueError(f"{where} does not divide workers.num_workers {workers.num_workers}: set it to {nearest}")
    if workers.min_workers is not None:
        raise ValueError(f"workers.min_workers could leave a part without a worker, with {where}: leave it out")
    others = {
        "task": spec.task, "preference": spec.preference, "policy": spec.policy, "teacher": spec.teacher,
        "retain": spec.retain, "fisher": spec.fisher, "embedding_noise": spec.embedding_noise,
    }  # fmt: skip
    asked = [name for name, value in others.items() if value]
    if asked or spec.objective_in_use.type != "causal":
        what = asked[0] if asked else f"objective {spec.objective_in_use.type}"
        raise ValueError(f"{where} is for causal models and their labels, not for {what}: use zero_stage 3")
    if spec.compile:
        raise ValueError(f"compile is not proven with {where}: leave it out")
    if spec.adapter.type not in ("none", "lora"):
        raise ValueError(f"adapter {spec.adapter.type} is not proven with {where}: use lora, or zero_stage instead")
    checks = {"pipeline": _check_stages, "tensor": _check_parts, "expert": _check_experts}
    for name, size in sharding.axes.items():
        if name in checks:
            checks[name](spec, size)
    shape = spec.architecture
    if isinstance(shape, DecoderArchitecture) and shape.heads % sharding.in_layers:
        fitting = math.gcd(shape.heads, sharding.in_layers)
        raise ValueError(f"{where} must divide num_heads {shape.heads} together: {fitting} workers would")


def _check_experts(spec: TrainSpec, size: int) -> None:
    if spec.architecture is not None:
        raise ValueError("sharding.expert is for a base that is a mixture of experts, and architecture makes none")
    sharding = spec.sharding
    if sharding.pipeline > 1:
        raise ValueError("sharding.expert is not proven with pipeline: use tensor or context with it")
    if size % sharding.tensor:
        nearest = f"{sharding.tensor * math.ceil(size / sharding.tensor)}"
        where = f"sharding.tensor {sharding.tensor} and expert {size}"
        raise ValueError(f"{where}: expert must be a multiple of tensor, whose workers have the same tokens: {nearest}")
    if sharding.zero_stage in (1, 3):
        raise ValueError(f"sharding.expert is not proven with zero_stage {sharding.zero_stage}: use 0 or 2")
    if spec.optimizer.type != "adamw":
        raise ValueError(f"optimizer {spec.optimizer.type} is not proven with sharding.expert: use adamw")
    if isinstance(spec.adapter, LoraAdapter) and spec.adapter.quantised_base:
        raise ValueError("sharding.expert spreads no quantised base: use plain lora")


def _check_router(spec: TrainSpec) -> None:
    if spec.router_balance is None:
        return
    others = {
        "architecture": spec.architecture, "task": spec.task, "preference": spec.preference, "policy": spec.policy,
        "teacher": spec.teacher_in_use,
    }  # fmt: skip
    asked = [name for name, value in others.items() if value]
    if asked or spec.objective_in_use.type != "causal":
        what = asked[0] if asked else f"objective {spec.objective_in_use.type}"
        raise ValueError(f"router_balance is for causal mixtures and their labels, not for {what}: leave it out")
    if spec.sharding.context > 1:
        raise ValueError("router_balance is that of whole rows, which sharding.context cuts: use tensor or expert")


def _check_stages(spec: TrainSpec, size: int) -> None:
    sharding, shape = spec.sharding, spec.architecture
    if sharding.zero_stage:
        raise ValueError("sharding.pipeline is for zero_stage 0: leave zero_stage out; tensor cuts the weights further")
    if sharding.context > 1:
        raise ValueError("sharding.pipeline is not proven with context: use tensor for it")
    if spec.router_balance is not None:
        raise ValueError("sharding.pipeline cuts no mixtures, which router_balance is for: use expert")
    if spec.optimizer.type != "adamw":
        raise ValueError(f"optimizer {spec.optimizer.type} is not proven with sharding.pipeline: use adamw")
    if isinstance(spec.adapter, LoraAdapter) and (spec.adapter.weight_decomposed or spec.adapter.quantised_base):
        raise ValueError("sharding.pipeline hands on neither DoRA nor a quantised base: use plain lora")
    if spec.accumulation_steps < size:
        least = spec.global_batch_tokens // max(1, spec.accumulation_steps) * size
        raise ValueError(
            f"sharding.pipeline {size} needs as many micro-batches in a step, and global_batch_tokens makes "
            f"{spec.accumulation_steps}: set it to {least}, or micro_batch_sequences lower"
        )
    if not isinstance(shape, DecoderArchitecture):
        return
    if shape.family != "llama":
        raise ValueError(f"sharding.pipeline cuts no {shape.family}: use family llama, or zero_stage 3")
    if shape.num_layers < size:
        raise ValueError(f"sharding.pipeline {size} needs as many layers, and num_layers is {shape.num_layers}")


def _check_parts(spec: TrainSpec, size: int) -> None:
    if spec.optimizer.type != "adamw":
        raise ValueError(f"optimizer {spec.optimizer.type} needs whole matrices, which sharding.tensor cuts: use adamw")
    if isinstance(spec.adapter, LoraAdapter) and (spec.adapter.weight_decomposed or spec.adapter.quantised_base):
        raise ValueError("sharding.tensor cuts neither DoRA nor a quantised base: use plain lora")
    shape = spec.architecture
    if not isinstance(shape, DecoderArchitecture):
        return
    if shape.family != "llama":
        raise ValueError(f"sharding.tensor cuts no {shape.family}: use family llama, or zero_stage 3")
    counts = (shape.heads, shape.num_key_value_heads or shape.heads, shape.feed_forward)
    if any(count % size for count in counts):
        nearest = max(n for n in range(1, size) if not any(count % n for count in counts))
        raise ValueError(
            f"sharding.tensor {size} must divide num_heads {counts[0]}, num_key_value_heads {counts[1]} and "
            f"feed_forward_size {counts[2]}: the largest below it that does is {nearest}"
        )
