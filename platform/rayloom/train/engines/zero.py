"""The engine for ZeRO stages 1 to 3, on DeepSpeed.

DeepSpeed's own checkpoints are pickled and load only on the same number of workers. So its shards are written and read
as fragments here, which any engine on any number of workers can load.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import deepspeed
import deepspeed.utils.groups
import torch
from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses
from torch import Tensor, nn
from torch import distributed as dist

from rayloom.specs.train import TrainSpec
from rayloom.train.engines.accumulation import AccumulatesInTurn
from rayloom.train.engines.fragments import Fragment, FragmentReader
from rayloom.train.engines.muon import Layout
from rayloom.train.engines.optimizers import ParameterGroup, optimizer_over, parameter_groups
from rayloom.train.engines.zero_shards import ShardsOfStage3, ShardsOfStages1And2
from rayloom.train.objectives.objective import TrainBatch
from rayloom.train.precision import DTYPES, computing_precision, convert_parameters
from rayloom.train.process_group import Group, backend_for
from rayloom.train.sizes.estimates import MAX_BUCKET_ELEMENTS
from rayloom.train.weights.parts import along_of, part_of
from rayloom.train.weights.sharded import ShardedWeights, Shards


def deepspeed_config(spec: TrainSpec, num_workers: int, num_trained: int, is_cuda: bool) -> dict[str, Any]:
    """DeepSpeed's configuration for a spec. The loop itself sets accumulation, learning rate and loss scale."""
    stage = spec.sharding.zero_stage
    bucket = min(MAX_BUCKET_ELEMENTS, num_trained + num_trained % 2)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": spec.micro_batch_sequences,
        "gradient_accumulation_steps": 1,
        "train_batch_size": spec.micro_batch_sequences * num_workers,
        "gradient_clipping": spec.gradient_clip_norm or 0.0,
        "bf16": {"enabled": spec.precision == "bf16"},
        # The loop sets the loss scale (train/precision.py), so that it is part of every checkpoint.
        "fp16": {"enabled": spec.precision == "fp16", "loss_scale": 1.0},
        # Sums over micro-batches are in fp32, since bf16 would lose precision.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": spec.sharding.reduce_precision,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": is_cuda,
            "contiguous_gradients": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "zero_allow_untested_optimizer": True,
        # torch's fused AdamW is as fast on a CPU as DeepSpeed's, which needs to be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    if stage == 3:
        config["zero_optimization"] |= {
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": min(100_000, bucket),
        }
    if spec.sharding.offload.optimizer:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": is_cuda}
    if spec.sharding.offload.parameters:
        config["zero_optimization"]["offload_param"] = {"device": "cpu", "pin_memory": is_cuda}
    return merged(config, spec.sharding.extra)


def merged(config: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`config` updated with `extra`, recursively for nested tables."""
    both = dict(config)
    for key, value in extra.items():
        is_table = isinstance(value, dict) and isinstance(config.get(key), dict)
        both[key] = merged(config[key], value) if is_table else value
    return both


class ZeroEngine(AccumulatesInTurn):
    """Engine for ZeRO stages 1, 2 and 3."""

    def __init__(self, spec: TrainSpec, model: Any, group: Group, weights: ShardedWeights | None = None) -> None:
        _start_communication(group)
        self.model, self.group = model, group
        spec = spec.model_copy(update={"precision": computing_precision(spec, group.device.type == "cuda")})
        self.is_fp16, self.loss_scale = spec.precision == "fp16", 1.0
        groups = parameter_groups(model.model, spec.optimizer)
        num_trained = sum(p.numel() for found in groups for p in found.parameters)
        config = deepspeed_config(spec, group.copies.size, num_trained, group.device.type == "cuda")
        if weights is not None:
            fill_in_shards(model.model, weights, config, DTYPES[spec.precision], group)
        elif spec.precision == "fp32":
            # DeepSpeed converts to bf16 and fp16, but without either it computes in the precision of the base's files.
            convert_parameters(model.model, torch.float32)
        optimizer = optimizer_over(groups, [list(found.parameters) for found in groups], spec.optimizer)
        for parameter in model.parameters():
            parameter.model_parallel = part_of(parameter) is not None  # counted on each worker in the gradients' norm
        given: dict[str, Any] = {"model": model, "optimizer": optimizer, "config": config, "dist_init_required": False}
        given["mpu"] = _axes_of(group)
        if group.expert.size > 1:
            self.engine: Any = _engine_with_experts(given, model.model, groups, group)
        else:
            self.engine, *_ = deepspeed.initialize(**given)
        shards = ShardsOfStage3 if spec.sharding.zero_stage == 3 else ShardsOfStages1And2
        self.shards = shards(self.engine, groups, model.model, group)
        for found, settings in zip(groups, optimizer.param_groups, strict=True):
            if found.is_orthogonalized:
                settings["layout"] = self._layout([p.shape for p in found.parameters], settings["params"][0])

    @property
    def num_updates(self) -> int:
        return self.shards.num_updates

    def loss(self, batch: TrainBatch) -> Tensor:
        return self.engine(batch)  # type: ignore[no-any-return]

    def backward(self, scaled_loss: Tensor, is_last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(is_last)
        if self.is_fp16:
            self.engine.optimizer.override_loss_scale(self.loss_scale)
        # DeepSpeed averages gradients over workers; the loop needs the sum.
        self.engine.backward(scaled_loss * self.group.copies.size, scale_wrt_gas=False)
        if not is_last:
            self.engine.step()

    def step(self, learning_rate: float) -> float:
        for settings in self.engine.optimizer.param_groups:
            settings["lr"] = learning_rate
        self.engine.step()
        if not self.engine.was_step_applied():
            return math.inf
        self.shards.num_updates += 1
        return float(self.engine.get_global_grad_norm())

    def fragments(self) -> Iterator[Fragment]:
        return self.shards.fragments()

    def restore(self, reader: FragmentReader, num_updates: int) -> None:
        self.shards.restore(reader, num_updates)

    def whole_weights(self) -> dict[str, Tensor] | None:
        return self.shards.whole_weights()

    def close(self) -> None:
        deepspeed.utils.groups.mpu = None  # DeepSpeed keeps these for the whole process
        for kept in _expert_groups():
            kept.clear()
        # Stage 3 replaces torch.nn.functional.linear, and would leave the replacement in this process.
        before = getattr(InsertPostInitMethodToModuleSubClasses, "linear_bk", None)
        if before is not None:
            torch.nn.functional.linear = before

    def _layout(self, shapes: list[torch.Size], shard: Tensor) -> Layout:
        starts, total = [], 0
        for shape in shapes:
            starts.append(total)
            total += shape.numel()
        return Layout(list(zip(starts, shapes, strict=True)), len(shard) * self.group.rank, self._gathered)

    def _gathered(self, shard: Tensor) -> Tensor:
        if self.group.num_workers == 1:
            return shard
        whole = torch.empty(len(shard) * self.group.num_workers, dtype=shard.dtype, device=shard.device)
        dist.all_gather_single(whole, shard)
        return whole


class _Axes:
    """The axes of the workers, as DeepSpeed asks for them (Megatron's `mpu`)."""

    def __init__(self, group: Group) -> None:
        for name, axis in (("model", group.tensor), ("data", group.copies)):
            for asked, value in (("rank", axis.rank), ("world_size", axis.size), ("group", axis.group)):
                setattr(self, f"get_{name}_parallel_{asked}", lambda value=value: value)


def _axes_of(group: Group) -> _Axes | None:
    return _Axes(group) if group.tensor.size > 1 else None


class _EngineWithExperts(deepspeed.DeepSpeedEngine):  # type: ignore[misc]
    """DeepSpeed's engine for models whose experts are not modules of DeepSpeed's own, by which it would know them."""

    def _configure_distributed_model(self, model: nn.Module) -> None:
        super()._configure_distributed_model(model)
        self.has_moe_layers = any(settings.get("moe") for settings in self.client_optimizer.param_groups)


def _engine_with_experts(given: dict[str, Any], model: nn.Module, groups: list[ParameterGroup], group: Group) -> Any:
    """The engine that splits the optimiser state of experts, and sums their gradients, over the workers that hold the
    same ones (Rajbhandari et al. 2022, DeepSpeed-MoE). It sums the squares of all shards to the norm as they are."""
    name = f"ep_size_{group.expert.size}"
    for kept, axis in zip(_expert_groups(), (group.expert, group.expert_copies), strict=True):
        kept[name] = axis.group
    for parameter in model.parameters():
        if along_of(parameter) == "expert":
            parameter.allreduce, parameter.group_name = False, name  # type: ignore[attr-defined]
    for found, settings in zip(groups, given["optimizer"].param_groups, strict=True):
        if found.along == "expert":
            settings.update(moe=True, name=name)
    return _EngineWithExperts(args=None, config_class=deepspeed.DeepSpeedConfig(given["config"], given["mpu"]), **given)


def _expert_groups() -> tuple[dict[str, Any], dict[str, Any]]:
    """DeepSpeed's groups of workers with the other experts, and of those with the same ones, by name."""
    known = deepspeed.utils.groups
    return known._EXPERT_PARALLEL_GROUP, known._EXPERT_DATA_PARALLEL_GROUP


def _start_communication(group: Group) -> None:
    """Starts DeepSpeed's communication in torch's process group, and makes that group if there is none.

    DeepSpeed needs one, and a local rank, even for a single worker.
    """
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # Its shared-memory communication takes about a minute to compile on first use, and a build that was killed leaves
    # a lock on which every later run would silently wait.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.setdefault("LOCAL_RANK", str(group.device.index or 0))
    if not dist.is_initialized():
        dist.init_process_group(backend_for(group.device), store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    deepspeed.init_distributed(backend_for(group.device), dist_init_required=False)


def fill_in_shards(
    model: nn.Module, weights: ShardedWeights, config: dict[str, Any], dtype: torch.dtype, group: Group
) -> None:
    """Fills a model on the meta device: afterwards each worker holds its part of each parameter, as ZeRO-3 cuts them.

    DeepSpeed's own `zero.Init` would make each parameter whole on the first worker and send it to all others.
    """
    _start_communication(group)
    made: Any = deepspeed.zero.Init(config_dict_or_path=config, dtype=dtype)
    made._enable_mem_efficient_linear()  # as `deepspeed.initialize` does if it cuts the model itself

    def own(parameter: nn.Parameter) -> tuple[int, int]:
        num_elements = parameter.numel()
        size = -(-num_elements // group.num_workers)
        start = min(size * group.rank, num_elements)
        return start, min(start + size, num_elements)

    def keep(parameter: Any) -> None:
        made._convert_to_deepspeed_param(parameter)
        parameter.partition()

    weights.fill(model, Shards(made.local_device, dtype, own, keep))
