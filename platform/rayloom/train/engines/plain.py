"""The engine without sharding (ZeRO stage 0): every worker holds all weights and optimiser state.

Trained parameters are views into flat tensors, so that clipping, the update, the conversion and the all-reduce are one
operation each for all parameters. In half precision, weights and activations are bf16 or fp16; master weights,
gradients and optimiser state are fp32. The last part converts optimiser state to and from its form in checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rayloom.specs.train import TrainSpec
from rayloom.train.engines.fragments import WEIGHT, ElementRange, Fragment, FragmentReader
from rayloom.train.engines.muon import Layout
from rayloom.train.engines.optimizers import AXES, ParameterGroup, optimizer_over, parameter_groups
from rayloom.train.engines.reduction import GradientSums, Place
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


class PlainEngine:
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
        for flat in self._flats:
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
        if not self.group.is_first and all(flat.group.along is None for flat in self._flats):
            return None
        gathered = {}
        for flat in self._flats:
            axis = self.group.axis_of(flat.group.along)
            for name, parameter, view in flat.views(flat.weights):
                weights = whole(parameter, view.view(parameter.shape), axis)
                if self.group.is_first:
                    gathered[name] = weights
        return gathered if self.group.is_first else None

    def close(self) -> None:
        pass

    def _norm(self) -> float:
        """The norm of all gradients; of parts, those of all workers count."""
        if all(flat.group.along is None for flat in self._flats):
            return float(torch.linalg.vector_norm(self._gradients))
        squares = self._gradients.new_zeros(len(AXES))
        for flat in self._flats:
            squares[AXES.index(flat.group.along)] += torch.linalg.vector_norm(flat.gradients).square()
        for number, along in enumerate(AXES):
            self.group.axis_of(along).summed(squares[number])
        return float(squares.sum().sqrt())

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


# Optimiser state in checkpoints: tensors with one value for each weight.
#
# AdamW and Muon store it like that. 8-bit AdamW stores codes, and one scale for each block of 256 weights. A checkpoint
# repeats the scale for each weight, so that any range of a parameter can be read on its own.

BLOCK_WEIGHTS = 256
"""bitsandbytes' block size. It keeps the state of tensors with fewer than 16 blocks in fp32."""
LEAST_WEIGHTS_IN_8_BITS = 4096
MOST_WEIGHTS_AT_ONCE = 1 << 30
"""bitsandbytes indexes with int32: it silently updates only a part of a tensor with 2^31 elements or more."""
CODES = {"code1": ("state1", "qmap1", "absmax1", "scale1"), "code2": ("state2", "qmap2", "absmax2", "scale2")}
SCALES = {"scale1": "absmax1", "scale2": "absmax2"}
PLAIN = {"state1": "state1", "state2": "state2"}


def kinds_in_8_bits(num_weights: int) -> tuple[str, ...]:
    """Names of the state tensors of 8-bit AdamW in a checkpoint, for a flat tensor with this many weights."""
    return (*CODES, *SCALES) if num_weights >= LEAST_WEIGHTS_IN_8_BITS else tuple(PLAIN)


def pieces_of(flat: Tensor, is_in_8_bits: bool) -> tuple[Tensor, ...]:
    """The flat tensor as the optimiser receives it: whole, or split at block boundaries into about equal pieces."""
    if not is_in_8_bits or flat.numel() <= MOST_WEIGHTS_AT_ONCE:
        return (flat,)
    count = -(-flat.numel() // MOST_WEIGHTS_AT_ONCE)
    return torch.split(flat, -(-flat.numel() // (count * BLOCK_WEIGHTS)) * BLOCK_WEIGHTS)


def kept(optimizer: Optimizer, flat: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Optimiser state of a flat tensor by kind, (n,) each; empty before the first step."""
    state: dict[str, Any] = optimizer.state.get(flat, {})
    if "qmap1" not in state:
        return {kind: state[kind] for kind in kinds if kind in state}
    codes = {kind: state[names[0]] for kind, names in CODES.items()}
    scales = {kind: state[name].repeat_interleave(BLOCK_WEIGHTS)[: flat.numel()] for kind, name in SCALES.items()}
    return codes | scales


def blank(flat: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Tensors to read a checkpoint's state into. Codes start at −1, which stays in the padding between parameters."""
    return {kind: torch.full_like(flat, -1.0 if kind in CODES else 0.0) for kind in kinds}


def put(optimizer: Any, place: tuple[int, int], flat: Tensor, tensors: dict[str, Tensor], num_updates: int) -> None:
    """Sets the optimiser's state of a flat tensor. `place`: (parameter group, index of the piece in it)."""
    if not hasattr(optimizer, "init_state"):
        optimizer.state[flat].update(tensors, step=torch.tensor(float(num_updates), device=flat.device))
        return
    optimizer.init_state(optimizer.param_groups[place[0]], flat, *place)
    state = optimizer.state[flat]
    state["step"] = num_updates
    for kind, tensor in tensors.items():
        if kind in CODES:
            codes, table, *_ = CODES[kind]
            nothing = int(state[table].abs().argmin())
            state[codes].copy_(torch.where(tensor < 0, nothing, tensor))
        elif kind in SCALES:
            blocks = torch.nn.functional.pad(tensor, (0, -len(tensor) % BLOCK_WEIGHTS)).view(-1, BLOCK_WEIGHTS)
            state[SCALES[kind]].copy_(blocks.amax(dim=1))
        else:
            state[kind].copy_(tensor)
