"""Reads and writes this worker's shard of DeepSpeed's fp32 weights and optimiser state as fragments, by ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state
from torch import Tensor, nn

from rayloom.train.engines.fragments import WEIGHT, ElementRange, Fragment, FragmentReader
from rayloom.train.engines.optimizers import ParameterGroup
from rayloom.train.process_group import Group
from rayloom.train.weights.parts import part_of, whole


class _Shards:
    num_updates = 0

    def __init__(self, engine: Any, groups: Sequence[ParameterGroup], model: nn.Module, group: Group) -> None:
        self.optimizer, self.groups, self.model, self.group = engine.optimizer, groups, model, group

    def fragments(self) -> Iterator[Fragment]:
        """This worker's part of a checkpoint. What all workers of a tensor axis hold, the first one writes."""
        for parameter, fragment in self._held():
            if part_of(parameter) is not None or self.group.tensor.rank == 0:
                yield fragment

    def _held(self) -> Iterator[tuple[nn.Parameter, Fragment]]:
        """What this worker holds, as views."""
        raise NotImplementedError

    @property
    def _state(self) -> Any:
        """Optimiser state by flat tensor."""
        return self.optimizer.optimizer.state

    def _make_state(self, flat: Tensor, group: ParameterGroup) -> None:
        """Allocates state tensors to restore into if no step has done so yet, and sets AdamW's step count."""
        for kind in group.state_kinds if self.num_updates else ():
            self._state[flat].setdefault(kind, torch.zeros_like(flat.detach()))
        if self.num_updates:
            self._state[flat]["step"] = torch.tensor(float(self.num_updates), device=flat.device)


class ShardsOfStages1And2(_Shards):
    """Every worker holds one range of each flattened parameter group."""

    @property
    def _flats(self) -> list[Tensor]:
        # DeepSpeed has a class of its own for stage 1 in bf16, with another name for this attribute.
        names = ("single_partition_of_fp32_groups", "fp32_groups_flat_partition")
        flats: list[Tensor] = next(getattr(self.optimizer, name) for name in names if hasattr(self.optimizer, name))
        return flats

    def _held(self) -> Iterator[tuple[nn.Parameter, Fragment]]:
        for flat, group, name, parameter in self._parameters():
            here, kept = parameter._hp_mapping.lp_fragment_address, parameter._hp_mapping.hp_fragment_address
            tensors = {WEIGHT: flat.detach()}
            tensors |= {k: self._state[flat][k] for k in group.state_kinds if k in self._state[flat]}
            cut = {kind: t[kept.start : kept.start + kept.numel] for kind, t in tensors.items()}
            span = ElementRange.within(parameter, here.start, here.start + kept.numel)
            yield parameter, Fragment(name, span, cut)

    def restore(self, reader: FragmentReader, num_updates: int) -> None:
        self.num_updates = num_updates
        for flat, group in zip(self._flats, self.groups, strict=True):
            self._make_state(flat, group)
        for _, fragment in self._held():
            reader.read_into(fragment)
        self.optimizer.update_lp_params()

    def whole_weights(self) -> dict[str, Tensor] | None:
        gathered = {}
        for group in self.groups:
            for name, parameter in zip(group.names, group.parameters, strict=True):
                weights = whole(parameter, parameter.detach(), self.group.axis_of(group.along))
                if self.group.is_first:
                    gathered[name] = weights
        return gathered if self.group.is_first else None

    def _parameters(self) -> Iterator[tuple[Tensor, ParameterGroup, str, Any]]:
        for flat, group in zip(self._flats, self.groups, strict=True):
            for name, parameter in zip(group.names, group.parameters, strict=True):
                if parameter._hp_mapping is not None:  # type: ignore[attr-defined]
                    yield flat, group, name, parameter


class ShardsOfStage3(_Shards):
    """Every worker holds one range of each parameter, padded to equal length."""

    def _held(self) -> Iterator[tuple[nn.Parameter, Fragment]]:
        for group in self.groups:
            for name, parameter in zip(group.names, group.parameters, strict=True):
                tensors = {WEIGHT: safe_get_local_fp32_param(parameter)}
                if self.num_updates:
                    kinds = group.state_kinds
                    tensors |= {kind: safe_get_local_optimizer_state(parameter, kind) for kind in kinds}
                start = len(tensors[WEIGHT]) * self.group.copies.rank
                size = min(len(tensors[WEIGHT]), parameter.ds_numel - start)  # type: ignore[attr-defined]
                if size > 0:
                    cut = {kind: tensor.detach()[:size] for kind, tensor in tensors.items()}
                    yield parameter, Fragment(name, ElementRange.within(parameter, start, start + size), cut)

    def restore(self, reader: FragmentReader, num_updates: int) -> None:
        self.num_updates = num_updates
        optimizer = self.optimizer
        for number, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
            self._make_state(flat, self.groups[optimizer.sub_group_to_group_id[number]])
        for _, fragment in self._held():
            reader.read_into(fragment)
        for number in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(number)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def whole_weights(self) -> dict[str, Tensor] | None:
        gathered = {}
        for group in self.groups:
            for name, parameter in zip(group.names, group.parameters, strict=True):
                # One parameter at a time, so that no device ever holds the whole model.
                with deepspeed.zero.GatheredParameters([parameter]):
                    weights = whole(parameter, parameter.detach(), self.group.axis_of(group.along))
                    if self.group.is_first:
                        gathered[name] = weights.to("cpu", copy=True)
        return gathered if self.group.is_first else None
