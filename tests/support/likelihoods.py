"""How sure a model is of what it writes. Processors round differently, so a near tie between two tokens may tip.

A greedy answer is the same on every processor if each of its tokens leads clearly. If not, a test compares what an
engine wrote with the model's likelihoods, not with the model's own answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

CLEAR_LEAD_NATS = 1.5
# Two engines in bf16 or INT8 differ by less: a logit of 20 is rounded to 0.06, and the sums before it add to that.
NEAR_TIE_NATS = 0.5


def leads(model: torch.nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Nats by which each token of an answer leads over the likeliest other one; below zero where that one leads."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].float()
    tokens = torch.tensor(answer)[:, None]
    others = logits.scatter(1, tokens, -torch.inf).amax(1)
    return (logits.gather(1, tokens)[:, 0] - others).tolist()
