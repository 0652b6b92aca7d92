"""Measures how far two causal models differ: in logits, next tokens and greedy answers on the same tokens.

The models need not be in memory together: compute the logits of one, then of the other, and compare.

Shapes: T tokens in a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Agreement:
    """Differences over all positions of all rows. Equal models give 0, 0 and 1."""

    max_logit_difference: float
    """Largest absolute difference of two logits. Not finite if a logit of either model is not."""
    mean_logit_difference: float
    next_token_share: float
    """Share of positions at which both models have the same most likely token."""
    num_positions: int

    def as_metrics(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def logits_of(model: nn.Module, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """(T, V) fp32 logits of each row, on the CPU. Rows are computed one by one, without padding."""
    device = next(model.parameters()).device
    logits = []
    for row in rows:
        output = model(input_ids=torch.tensor([list(row)], device=device), use_cache=False)
        logits.append(output.logits[0].float().cpu())
    return logits


def compare(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> Agreement:
    """The agreement of two models' logits for the same rows."""
    pairs = list(zip(expected, actual, strict=True))
    num_positions = sum(len(logits) for logits in expected)
    differences = [(first - second).abs() for first, second in pairs]
    # torch's maximum is NaN if a value is; Python's max may not be.
    largest = torch.stack([difference.max() for difference in differences]).max()
    same = sum(int((first.argmax(-1) == second.argmax(-1)).sum()) for first, second in pairs)
    return Agreement(
        max_logit_difference=float(largest),
        mean_logit_difference=sum(float(d.mean(-1).sum()) for d in differences) / num_positions,
        next_token_share=same / num_positions,
        num_positions=num_positions,
    )


@dataclass(frozen=True)
class AnswerAgreement:
    """Agreement of two models' greedy answers to the same prompts."""

    same_answers_share: float
    """Share of answers that are identical."""
    same_tokens_share: float
    """Length of the common prefix, relative to the longer answer, over all answers."""

    def as_metrics(self) -> dict[str, Any]:
        return asdict(self)


def compare_answers(expected: Sequence[Sequence[int]], actual: Sequence[Sequence[int]]) -> AnswerAgreement:
    """The agreement of two models' answers. Two empty answers are the same."""
    pairs = list(zip(expected, actual, strict=True))
    equal = sum(list(first) == list(second) for first, second in pairs)
    longest = sum(max(len(first), len(second)) for first, second in pairs)
    common = sum(_common(first, second) for first, second in pairs)
    return AnswerAgreement(equal / len(pairs), common / longest if longest else 1.0)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    for position, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return position
    return min(len(first), len(second))
