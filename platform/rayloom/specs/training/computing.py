"""Which optimisers, layers and number formats of a training job can be computed together, and on which devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayloom.specs.train import TrainSpec


def check_computing(spec: TrainSpec) -> None:
    """Raises ValueError for the first combination that cannot be computed."""
    _check_optimizer(spec)
    _check_layers(spec)
    _check_device(spec)


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
