"""How far two causal models differ on the same tokens: their logits, the tokens they would choose, their answers.

Two models need not be in memory at once: take the logits of one, change or load the other, take its logits, compare.

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
    """Differences over all positions of all rows. Two models with one set of weights give 0, 0 and 1."""

    max_logit_difference: float
    """Largest absolute difference of two logits. Not finite where either model's logits are not."""
    mean_logit_difference: float
    next_token_share: float
    """Positions at which both models put the same token first."""
    num_positions: int

    def as_metrics(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def logits_of(model: nn.Module, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """(T, V) fp32 logits of each row, on the CPU. Rows are computed one by one, so that padding changes nothing."""
    device = next(model.parameters()).device
    found = []
    for row in rows:
        output = model(input_ids=torch.tensor([list(row)], device=device), use_cache=False)
        found.append(output.logits[0].float().cpu())
    return found


def compare(expected: Sequence[Tensor], found: Sequence[Tensor]) -> Agreement:
    """The agreement of two models' logits for the same rows."""
    pairs = list(zip(expected, found, strict=True))
    num_positions = sum(len(logits) for logits in expected)
    differences = [(first - second).abs() for first, second in pairs]
    # torch's maximum, unlike Python's, does not lose a NaN.
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
    """Greedy answers of two models to the same prompts."""

    same_answers_share: float
    """Answers that are equal to their last token."""
    same_tokens_share: float
    """Tokens up to the first difference, of the tokens of the longer answer."""

    def as_metrics(self) -> dict[str, Any]:
        return asdict(self)


def compare_answers(expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> AnswerAgreement:
    """The agreement of two models' answers. Two empty answers are the same."""
    pairs = list(zip(expected, found, strict=True))
    equal = sum(list(first) == list(second) for first, second in pairs)
    longest = sum(max(len(first), len(second)) for first, second in pairs)
    common = sum(_common(first, second) for first, second in pairs)
    return AnswerAgreement(equal / len(pairs), common / longest if longest else 1.0)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    for place, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return place
    return min(len(first), len(second))
