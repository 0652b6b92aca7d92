"""Gives DeepSpeed's ZeRO-3 a model that no worker ever held whole."""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
from torch import nn

from rayloom.train.process_group import Group, backend_for
from rayloom.train.weights.sharded import ShardedWeights, Shards


def fill_in_shards(
    model: nn.Module, weights: ShardedWeights, config: dict[str, Any], dtype: torch.dtype, group: Group
) -> None:
    """Fills a model on the meta device: afterwards each worker holds its part of each parameter, as ZeRO-3 cuts them.

    DeepSpeed's own `zero.Init` would make each parameter whole on the first worker and send it to all others.
    """
    deepspeed.init_distributed(backend_for(group.device), dist_init_required=False)
    made: Any = deepspeed.zero.Init(config_dict_or_path=config, dtype=dtype)
    made._enable_mem_efficient_linear()  # as `deepspeed.initialize` does if it cuts the model itself

    def own(num_elements: int) -> tuple[int, int]:
        size = -(-num_elements // group.num_workers)
        start = min(size * group.rank, num_elements)
        return start, min(start + size, num_elements)

    def keep(parameter: Any) -> None:
        made._convert_to_deepspeed_param(parameter)
        parameter.partition()

    weights.fill(model, Shards(made.local_device, dtype, own, keep))
