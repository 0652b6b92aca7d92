"""Groups of parameters that are updated alike, and the optimiser over them.

Engines store each group as one flat tensor or a shard of it, so the optimisers take flat tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from rayloom.score.label_loss import output_head_of
from rayloom.specs.training import optimization as spec_of
from rayloom.train.engines.muon import MuonAdamW
from rayloom.train.weights.parts import Along, along_of
from rayloom.train.weights.stages import is_copy

ADAM_STATE = ("exp_avg", "exp_avg_sq")
MUON_STATE = ("momentum",)
AXES: tuple[Along | None, ...] = (None, "tensor", "expert")
"""Parameters that are cut along different axes are in different groups."""


@dataclass(frozen=True)
class ParameterGroup:
    """Trained parameters with the same update rule and weight decay, in the model's order."""

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    weight_decay: float
    is_orthogonalized: bool = False
    is_in_8_bits: bool = False
    along: Along | None = None
    """The axis of workers along which they are cut; None if they are whole."""
    are_copies: bool = False
    """Whether the first stage of a pipeline has the same ones (tied embeddings), and answers for them."""

    @property
    def state_kinds(self) -> tuple[str, ...]:
        """Names of the optimiser's per-element state tensors."""
        return MUON_STATE if self.is_orthogonalized else ADAM_STATE


def parameter_groups(model: nn.Module, spec: spec_of.Optimizer) -> list[ParameterGroup]:
    """Muon's matrices (those inside layers), other matrices, then norms and biases, which have no weight decay."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = output_head_of(model)
    tables |= {id(p) for p in head.parameters()} if head is not None else set()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    is_muon = spec.type == "muon"
    inner = [(n, p) for n, p in trained if is_muon and p.ndim == 2 and id(p) not in tables]
    taken = {id(p) for _, p in inner}
    decayed = [(n, p) for n, p in trained if p.ndim >= 2 and id(p) not in taken]
    plain = [(n, p) for n, p in trained if p.ndim < 2]
    groups = []
    for named, decay, orthogonal in (
        (inner, spec.weight_decay, True),
        (decayed, spec.weight_decay, False),
        (plain, 0.0, False),
    ):
        for are_copies, along in product((False, True), AXES):
            alike = [(n, p) for n, p in named if (is_copy(p), along_of(p)) == (are_copies, along)]
            if alike:
                names, parameters = zip(*alike, strict=True)
                in_8_bits = spec.type == "adamw8bit"
                groups.append(ParameterGroup(names, parameters, decay, orthogonal, in_8_bits, along, are_copies))
    return sorted(groups, key=lambda group: group.along == "expert")  # gradients that others sum, together


def optimizer_over(
    groups: Sequence[ParameterGroup], tensors: Sequence[Sequence[Tensor]], spec: spec_of.Optimizer
) -> Optimizer:
    """The optimiser of the groups. `tensors`: the flat tensors that the engine stores for each group.

    The engine adds `layout` to groups that Muon updates.
    """
    settings = []
    for group, kept in zip(groups, tensors, strict=True):
        setting = {"params": list(kept), "weight_decay": group.weight_decay, "lr": 0.0}
        if group.is_orthogonalized and isinstance(spec, spec_of.Muon):
            setting["momentum"] = spec.momentum
        settings.append(setting)
    if spec.type == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        made: Optimizer = AdamW8bit(settings, lr=0.0, betas=(spec.beta1, spec.beta2), eps=spec.epsilon)
        return made
    kind = MuonAdamW if spec.type == "muon" else AdamW
    return kind(settings, lr=0.0, betas=(spec.beta1, spec.beta2), eps=spec.epsilon, fused=True)
