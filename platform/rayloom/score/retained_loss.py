"""A loss with penalties, such as for weights that leave their place: elastic weight consolidation and L2-SP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.score.tally import AnswerTally


class HeldWeights:
    """Σ ½ · strength · (θ − θ₀)² over parameters, by name, that are held at their values of now."""

    def __init__(self, model: nn.Module, strengths: Mapping[str, Tensor | float]) -> None:
        """`strengths`: for each parameter one number, or one for each of its elements."""
        parameters = dict(model.named_parameters())
        # Copies, in the precision of now: training changes the parameters in place, and may convert them.
        self._starts = {name: parameters[name].detach().clone() for name in strengths}
        self._strengths = dict(strengths)

    def penalty(self, model: nn.Module) -> Tensor:
        """() fp32."""
        total = torch.zeros((), device=next(model.parameters()).device)
        for name, parameter in model.named_parameters():
            if name in self._starts:
                self._starts[name] = start = self._starts[name].to(parameter.device)
                strength = self._strengths[name]
                if isinstance(strength, Tensor):
                    self._strengths[name] = strength = strength.to(parameter.device)
                total = total + _Distance.apply(parameter, start, strength)  # type: ignore[no-untyped-call]
        return total


class _Distance(torch.autograd.Function):
    """½ Σ strength · (θ − θ₀)², of which nothing but its inputs is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, start: Tensor, strength: Tensor | float) -> Tensor:
        ctx.save_for_backward(parameter, start)
        ctx.strength = strength
        away = _away(parameter, start)
        return (away * away * strength).sum() / 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        parameter, start = ctx.saved_tensors
        gradient = _away(parameter, start) * ctx.strength * grads[0]
        return gradient.to(parameter.dtype), None, None


def _away(parameter: Tensor, start: Tensor) -> Tensor:
    # Rounded alike, so that the distance is 0 at the start in every precision.
    return parameter.float() - start.to(parameter.dtype).float()


class RetainedLoss(nn.Module):
    """Wraps a loss module; in training each label brings every penalty once, so that their mean has it once too.

    So it is the same for any number of workers and micro-batches: the loop divides the sum over all labels of a step by
    their number.
    """

    def __init__(self, loss: nn.Module, penalties: Sequence[Callable[[nn.Module], Tensor]]) -> None:
        super().__init__()
        self.loss, self._penalties = loss, tuple(penalties)

    @property
    def model(self) -> nn.Module:
        return self.loss.model  # type: ignore[return-value]

    @property
    def tally(self) -> AnswerTally:
        return self.loss.tally  # type: ignore[return-value]

    @tally.setter
    def tally(self, tally: AnswerTally) -> None:
        self.loss.tally = tally  # type: ignore[assignment]

    def forward(self, batch: Any) -> Tensor:
        loss: Tensor = self.loss(batch)
        if self.model.training:
            for penalty in self._penalties:
                loss = loss + penalty(self.model) * batch.num_labels
        return loss
