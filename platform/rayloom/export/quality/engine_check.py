"""Checks that vLLM, which will serve a quantised model, computes the same as transformers, which measured it.

An engine can interpret the same files differently, such as use zeros for a layer whose scale it does not find.
Perplexity in transformers does not show that; comparing log-probabilities of the same tokens does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rayloom.errors import QualityError
from rayloom.export.quality.engine_process import EngineLimits, EngineProcess
from rayloom.export.quality.heldout_rows import SampledRows

MOST_TOKENS = 2048
MOST_ROW_TOKENS = 512
LEAST_ROW_TOKENS = 2
NUM_SEQUENCES = 8


@dataclass(frozen=True)
class EngineDifference:
    """Differences in nats between two engines' log-probabilities of the same tokens."""

    of_the_mean: float
    """Difference of the means over all tokens."""
    of_a_token: float
    """Mean of the absolute differences per token, which also contains rounding."""
    num_tokens: int

    def as_metrics(self) -> dict[str, float]:
        return {
            "mean_nats": self.of_the_mean,
            "mean_nats_per_token": self.of_a_token,
            "num_tokens": float(self.num_tokens),
        }


def documents_of(rows: SampledRows) -> list[list[int]]:
    """Token ids of the rows' documents, each from its beginning, up to about `MOST_TOKENS` tokens in all."""
    documents: list[list[int]] = []
    for index in range(len(rows)):
        row = rows.row(index)
        parts = np.split(row.tokens, np.flatnonzero(row.positions == 0)[1:])
        documents += [part[:MOST_ROW_TOKENS].tolist() for part in parts if len(part) >= LEAST_ROW_TOKENS]
        if sum(map(len, documents)) >= MOST_TOKENS:
            break
    return documents


@torch.no_grad()
def log_probabilities(model: nn.Module, documents: Sequence[Sequence[int]]) -> list[list[float]]:
    """Log-probability in nats of each token but a document's first, by transformers."""
    device = next(model.parameters()).device
    result = []
    for document in documents:
        tokens = torch.tensor([document], device=device)
        shares = model(input_ids=tokens, use_cache=False).logits[0, :-1].float().log_softmax(dim=-1)
        result.append(shares.gather(1, tokens[0, 1:, None])[:, 0].tolist())
    return result


def by_engine(model: Path, documents: list[list[int]]) -> list[list[float]]:
    """The same by vLLM in a process of its own. Raises ResourceError if it does not load the model."""
    num_cores = None if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    longest = max(map(len, documents))
    with EngineProcess(model, EngineLimits(longest + 1, NUM_SEQUENCES, num_cores)) as engine:
        return engine.log_probabilities(documents)


def difference(measured: Sequence[Sequence[float]], served: Sequence[Sequence[float]]) -> EngineDifference:
    ours, theirs = np.concatenate(list(map(np.asarray, measured))), np.concatenate(list(map(np.asarray, served)))
    return EngineDifference(float(abs(ours.mean() - theirs.mean())), float(abs(ours - theirs).mean()), len(ours))


def check(difference: EngineDifference, allowed: float, where: str) -> None:
    """Raises QualityError if the difference is larger than allowed or not finite."""
    if math.isfinite(difference.of_a_token) and difference.of_the_mean <= allowed:
        return
    what = (
        f"vLLM serves another model than was measured: the mean log-probability of {difference.num_tokens:,} held-out "
        f"tokens differs by {difference.of_the_mean:.3g} nats from transformers', and {allowed:g} is allowed"
    )
    fix = "Choose another scheme; if this model will not be served by vLLM, set max_engine_difference: null."
    raise QualityError(what, where=where, fix=fix)


def is_runnable(scheme: Any) -> bool:
    """Whether vLLM can run the scheme on this machine: FP8 needs a GPU of compute capability 8.9 or more."""
    if scheme.type == "nf4":
        return False
    return scheme.type != "fp8" or (torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9))
