"""Greedy answers to the beginnings of real rows, before and after quantising: how often they stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from rayloom.export.quality.heldout_rows import SampledRows
from rayloom.score.answers import greedy_answers

LEAST_PROMPT_TOKENS = 16
"""Of rows in which every token is trained: with less, an answer has nothing to follow from."""
MOST_PROMPT_TOKENS = 256


def prompts_of(rows: SampledRows, num_prompts: int) -> list[list[int]]:
    """The beginnings of rows spread evenly over all: up to the first trained token, which begins the answer."""
    chosen = np.linspace(0, len(rows) - 1, min(num_prompts, len(rows))).round().astype(int)
    prompts = []
    for number in sorted({int(number) for number in chosen}):
        row = rows.row(number)
        trained = np.flatnonzero(row.trained)
        end = max(LEAST_PROMPT_TOKENS, int(trained[0]) if len(trained) else 0)
        prompts.append(row.tokens[: min(end, MOST_PROMPT_TOKENS)].tolist())
    return prompts


def answers_to(model: nn.Module, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """The likeliest answers of this many tokens, or up to where the model ends one."""
    if not prompts:
        return []
    with_defaults: Any = model
    end = with_defaults.generation_config.eos_token_id
    stops = [] if end is None else end if isinstance(end, list) else [end]
    return greedy_answers(model, prompts, num_tokens, stops, len(prompts))
