"""What computes a model's layers instead of torch's own operations, and with which settings it is proven."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rayloom.specs.training.architectures import DecoderArchitecture

if TYPE_CHECKING:
    from rayloom.specs.train import TrainSpec

Kernels = Literal["torch", "liger"]
Float8 = Literal["tensorwise", "rowwise"]


def check_kernels(spec: TrainSpec) -> None:
    """Raises ValueError for the first setting that they are not for."""
    _check_liger(spec)
    _check_float8(spec)


def _check_liger(spec: TrainSpec) -> None:
    if spec.kernels == "torch":
        return
    if not spec.workers.gpus_per_worker:
        raise ValueError("kernels liger are for GPUs (workers.gpus_per_worker: 1); on CPUs use torch, or compile")
    if spec.compile:
        raise ValueError("compile fuses what kernels liger fuse: leave one of them out")
    if spec.recomputed is not None and spec.recomputed.keep == "products":
        raise ValueError(
            "activation_checkpointing.keep: products keeps what kernels liger rotate in place: use every_layers"
        )
    if spec.adapter.type not in ("none", "parts", "lora"):
        raise ValueError(f"kernels liger are not proven with adapter {spec.adapter.type}: use lora, or leave them out")
    if spec.sharding.axes:
        raise ValueError(f"kernels liger are not proven with sharding.{next(iter(spec.sharding.axes))}: use zero_stage")
    if spec.sharding.zero_stage == 3:
        raise ValueError("kernels liger are not proven with zero_stage 3: use stage 2, or leave them out")
    shape = spec.architecture
    if shape is not None and not (isinstance(shape, DecoderArchitecture) and shape.family == "llama"):
        raise ValueError("kernels liger are for decoders of family llama: leave them out")
    if isinstance(shape, DecoderArchitecture) and shape.activation not in (None, "silu"):
        raise ValueError(f"kernels liger have no gate of {shape.activation}: use activation silu, or leave them out")


def _check_float8(spec: TrainSpec) -> None:
    if spec.float8 is None:
        return
    if not spec.workers.gpus_per_worker or spec.precision != "bf16":
        raise ValueError("float8 is for GPUs (workers.gpus_per_worker: 1) and precision bf16")
    if spec.adapter.type != "none":
        raise ValueError(f"float8 is for training all weights, not for adapter {spec.adapter.type}: leave it out")
    if spec.policy is not None:
        raise ValueError("float8 is not for a policy, whose answers are written in bf16: leave it out")
    if spec.kernels != "torch":
        raise ValueError("float8 is fast where layers are compiled, and kernels liger are for where they are not")
    if spec.sharding.axes:
        raise ValueError(f"float8 is not proven with sharding.{next(iter(spec.sharding.axes))}: use zero_stage")
    if spec.sharding.zero_stage == 3:
        raise ValueError(
            "float8 keeps each layer's weights for the backward pass, which zero_stage 3 frees: use stage 2"
        )
    if spec.recomputed is not None and spec.recomputed.keep == "products":
        raise ValueError("activation_checkpointing.keep: products sees no float8 products: use every_layers")
    if isinstance(spec.architecture, DecoderArchitecture) and spec.architecture.family == "gpt2":
        raise ValueError("float8 is for linear layers, which family gpt2 has none of: use family llama")
