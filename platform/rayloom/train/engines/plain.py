"""The engine without sharding (ZeRO stage 0): every worker holds all weights and optimiser state.

Trained parameters are views into flat tensors, so that clipping, the update, the conversion and the all-reduce are one
operation each for all parameters. In half precision, weights and activations are bf16 or fp16; master weights,
gradients and optimiser state are fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.specs.train import TrainSpec
from rayloom.train.engines.accumulation import AccumulatesInTurn
from rayloom.train.engines.fragments import WEIGHT, ElementRange, Fragment, FragmentReader
from rayloom.train.engines.muon import Layout
from rayloom.train.engines.optimizers import AXES, ParameterGroup, optimizer_over, parameter_groups
from rayloom.train.engines.reduction import GradientSums, Place
from rayloom.train.engines.stored_state import blank, kept, kinds_in_8_bits, pieces_of, put
from rayloom.train.objectives.objective import TrainBatch
from rayloom.train.precision import DTYPES, computing_precision
from rayloom.train.process_group import Group
from rayloom.train.weights.parts import whole

ALIGNMENT = 32
"""Each parameter begins at a multiple of this many elements, so that vector instructions are aligned."""


@dataclass(frozen=True)
class _Flat:
    """The flat tensors of one parameter group."""

    group: ParameterGroup
    starts: tuple[int, ...]
    master: Tensor
    """fp32 weights, which the optimiser updates."""
    weights: Tensor
    """Weights that the model computes with; in fp32 the same tensor as `master`."""
    gradients: Tensor
    """fp32, a view into the engine's one tensor of gradients."""
    pieces: tuple[Tensor, ...]
    """`master` as the optimiser receives it (see `pieces_of`)."""

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return kinds_in_8_bits(self.master.numel()) if self.group.is_in_8_bits else self.group.state_kinds

    def views(self, flat: Tensor) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
        for name, parameter, start in zip(self.group.names, self.group.parameters, self.starts, strict=True):
            yield name, parameter, flat[start : start + parameter.numel()]


class PlainEngine(AccumulatesInTurn):
    """Engine for ZeRO stage 0."""

    def __init__(self, spec: TrainSpec, model: Any, group: Group) -> None:
        self.model, self.group = model, group
        self.clip_norm = spec.gradient_clip_norm
        self.num_updates = 0
        self.loss_scale = 1.0
        dtype = DTYPES[computing_precision(spec, group.device.type == "cuda")]
        groups = parameter_groups(model.model, spec.optimizer)
        sizes = [_layout([p.numel() for p in found.parameters]) for found in groups]
        self._gradients = torch.zeros(sum(total for _, total in sizes), device=group.device)
        self._flats: list[_Flat] = []
        begin = 0
        for found, (starts, total) in zip(groups, sizes, strict=True):
            gradients = self._gradients[begin : begin + total]
            self._flats.append(_flattened(found, starts, total, dtype, gradients))
            begin += total
        for parameter in model.parameters():
            # Buffers keep their type: rotary frequencies in bf16 would be too imprecise. So do quantised weights.
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(device=group.device, dtype=dtype)
        model.to(device=group.device)
        for flat in self._flats:
            for _, parameter, view in flat.views(flat.weights):
                parameter.data = view.view(parameter.shape)
        self._collect_gradients()
        self._sums = list(self._sums_of_gradients(spec))
        self.optimizer = optimizer_over(groups, [flat.pieces for flat in self._flats], spec.optimizer)
        for flat, settings in zip(self._flats, self.optimizer.param_groups, strict=True):
            cut = torch.split(flat.gradients, len(flat.pieces[0]))
            for piece, gradients in zip(flat.pieces, cut, strict=True):
                piece.grad = gradients
            if flat.group.is_orthogonalized:
                shapes = [parameter.shape for parameter in flat.group.parameters]
                settings["layout"] = Layout(list(zip(flat.starts, shapes, strict=True)), 0, lambda shard: shard)

    @property
    def _own(self) -> list[_Flat]:
        """Those that no other stage of a pipeline answers for."""
        return [flat for flat in self._flats if not flat.group.are_copies]

    def loss(self, batch: TrainBatch) -> Tensor:
        return self.model(batch)  # type: ignore[no-any-return]

    def backward(self, scaled_loss: Tensor, is_last: bool) -> None:
        sums = self._sums if is_last else []
        for one in sums:
            one.begin()
        (scaled_loss * self.loss_scale).backward()  # type: ignore[no-untyped-call]
        for one in sums:
            one.finish()

    def step(self, learning_rate: float) -> float:
        norm = self._norm() / self.loss_scale
        if math.isfinite(norm):
            is_clipped = self.clip_norm is not None and norm > self.clip_norm
            factor = (self.clip_norm / norm if self.clip_norm and is_clipped else 1.0) / self.loss_scale
            if factor != 1.0:
                self._gradients.mul_(factor)
            for settings in self.optimizer.param_groups:
                settings["lr"] = learning_rate
            self.optimizer.step()
            self.num_updates += 1
            self._convert()
        self._gradients.zero_()
        return norm

    def fragments(self) -> Iterator[Fragment]:
        """Each worker yields a different part of every parameter, so that all of them share the writing."""
        for flat in self._own:
            states = [kept(self.optimizer, piece, flat.state_kinds) for piece in flat.pieces]
            # With one piece, the usual case, nothing is copied.
            state = {kind: torch.cat([s[kind] for s in states]) for kind in states[0]} if states[1:] else states[0]
            for name, parameter, weights in flat.views(flat.master):
                start, end = self.group.writers_of(flat.group.along).share(parameter.numel())
                offset = weights.storage_offset() - flat.master.storage_offset()
                tensors = {WEIGHT: weights[start:end]}
                for kind, tensor in state.items():
                    tensors[kind] = tensor[offset + start : offset + end]
                if start < end:
                    yield Fragment(name, ElementRange.within(parameter, start, end), tensors)

    def restore(self, reader: FragmentReader, num_updates: int) -> None:
        self.num_updates = num_updates
        for number, flat in enumerate(self._flats):
            state = blank(flat.master.detach(), flat.state_kinds) if num_updates else {}
            for kind, tensor in ({WEIGHT: flat.master.detach()} | state).items():
                for name, parameter, view in flat.views(tensor):
                    view.copy_(reader.read(kind, name, ElementRange.within(parameter, 0, parameter.numel())))
            if num_updates:
                for place, piece in enumerate(flat.pieces):
                    begin = place * len(flat.pieces[0])
                    own = {kind: tensor[begin : begin + len(piece)] for kind, tensor in state.items()}
                    put(self.optimizer, (number, place), piece, own, num_updates)
        self._gradients.zero_()
        self._convert()

    def whole_weights(self) -> dict[str, Tensor] | None:
        is_first = self.group.in_stage.rank == 0
        if not is_first and all(flat.group.along is None for flat in self._flats):
            return None
        gathered = {}
        for flat in self._own:
            axis = self.group.axis_of(flat.group.along)
            for name, parameter, view in flat.views(flat.weights):
                weights = whole(parameter, view.view(parameter.shape), axis)
                if is_first:
                    gathered[name] = weights
        return gathered if is_first else None

    def close(self) -> None:
        pass

    def _norm(self) -> float:
        """The norm of all gradients; of parts and of layers, those of all workers count."""
        pipeline = self.group.pipeline
        if pipeline.size == 1 and all(flat.group.along is None for flat in self._flats):
            return float(torch.linalg.vector_norm(self._gradients))
        squares = self._gradients.new_zeros(len(AXES))
        for flat in self._own:
            squares[AXES.index(flat.group.along)] += torch.linalg.vector_norm(flat.gradients).square()
        for number, along in enumerate(AXES):
            self.group.axis_of(along).summed(squares[number])
        return float(pipeline.summed(squares.sum()).sqrt())

    def _convert(self) -> None:
        for flat in self._flats:
            if flat.weights is not flat.master:
                flat.weights.copy_(flat.master)

    def _collect_gradients(self) -> None:
        """Makes gradients accumulate in the flat tensor: directly in fp32, else by a hook on each parameter."""
        for flat in self._flats:
            for _, parameter, view in flat.views(flat.gradients):
                shaped = view.view(parameter.shape)
                if parameter.dtype == torch.float32:
                    parameter.grad = shaped
                else:
                    parameter.register_post_accumulate_grad_hook(_adding_to(shaped))  # type: ignore[no-untyped-call]

    def _sums_of_gradients(self, spec: TrainSpec) -> Iterator[GradientSums]:
        """One of all gradients, but for those of experts, which fewer workers have."""
        dtype = DTYPES[spec.sharding.reduce_precision]
        experts = [flat for flat in self._flats if flat.group.along == "expert"]
        others = self._flats[: len(self._flats) - len(experts)]
        for flats, copies in ((others, self.group.copies), (experts, self.group.expert_copies)):
            if flats and copies.size > 1:
                first = flats[0].gradients.storage_offset()
                gradients = self._gradients[first : first + sum(flat.gradients.numel() for flat in flats)]
                begins = {
                    parameter: int(view.storage_offset() - first)
                    for flat in flats
                    for _, parameter, view in flat.views(flat.gradients)
                }
                places = [Place(one, begins[one]) for one in self.model.parameters() if one in begins]
                yield GradientSums(gradients, places, copies.sum_in_background, dtype)


def _adding_to(gradients: Tensor) -> Callable[[Tensor], None]:
    def add(parameter: Tensor) -> None:
        if parameter.grad is not None:
            gradients.add_(parameter.grad)
            parameter.grad = None

    return add


def _layout(sizes: list[int]) -> tuple[tuple[int, ...], int]:
    """Offset of each parameter in the flat tensor, and its total size."""
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += -(-size // ALIGNMENT) * ALIGNMENT
    return tuple(starts), total


def _flattened(
    group: ParameterGroup, starts: tuple[int, ...], total: int, dtype: torch.dtype, gradients: Tensor
) -> _Flat:
    master = torch.zeros(total, device=gradients.device)
    weights = master if dtype == torch.float32 else torch.zeros(total, dtype=dtype, device=gradients.device)
    flat = _Flat(group, starts, master, weights, gradients, pieces_of(master, group.is_in_8_bits))
    for _, parameter, view in flat.views(master):
        view.copy_(parameter.detach().reshape(-1))
    weights.copy_(master)
    return flat
