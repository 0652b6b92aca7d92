"""A loss that keeps the router of a mixture from preferring some experts.

It is that of each row by itself (DeepSeek-V3, 2024, arXiv:2412.19437, equations 17 to 20), so it does not depend on how
rows are spread over micro-batches and workers, as that of a batch would (Fedus et al. 2021, Switch Transformer).

Shapes: B rows, S positions, N experts, K experts of a token.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.score.batches import NO_LABEL, Batch
from rayloom.score.label_loss import LabelLoss


class BalancedLabelLoss(LabelLoss):
    """The sum of −log p(label), and in training of each label's share of its row's imbalance, times a weight."""

    def __init__(self, model: nn.Module, weight: float) -> None:
        """Raises InputError if the model has no router."""
        super().__init__(model)
        self.weight = weight
        self._routed: list[tuple[Tensor, Tensor]] = []
        routers = [module for module in model.modules() if _is_router(module)]
        if not routers:
            raise InputError("router_balance is for mixtures of experts, and the base is none", fix="Leave it out.")
        for router in routers:
            router.register_forward_hook(self._note)

    def forward(self, batch: Batch) -> Tensor:
        self._routed.clear()
        loss = super().forward(batch)
        if not self.model.training:
            return loss
        num_labels = (batch.labels != NO_LABEL).sum(dim=1)
        layers = [imbalance(logits, chosen, len(num_labels)) for logits, chosen in self._routed]
        return loss + self.weight / len(layers) * sum(((layer * num_labels).sum() for layer in layers), loss * 0)

    def _note(self, _: nn.Module, __: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        self._routed.append((output[0], output[2]))


def imbalance(logits: Tensor, chosen: Tensor, num_rows: int) -> Tensor:
    """(B,) at least about 1, where all experts are chosen alike, of (B · S, N) logits and (B · S, K) chosen experts."""
    num_experts = logits.shape[1]
    probable = logits.float().softmax(dim=-1).view(num_rows, -1, num_experts).mean(dim=1)
    rows = chosen.view(num_rows, -1)
    counts = probable.new_zeros(num_rows, num_experts).scatter_add_(1, rows, probable.new_ones(()).expand_as(rows))
    return (counts * (num_experts / rows.shape[1]) * probable).sum(dim=1)


def _is_router(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return hasattr(module, "num_experts") and hasattr(module, "top_k") and isinstance(weight, nn.Parameter)
