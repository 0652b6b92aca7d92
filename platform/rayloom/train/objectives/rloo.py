"""REINFORCE leave-one-out advantages (Ahmadian et al. 2024, arXiv:2402.14740, equation 6). P prompts, G answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def advantages(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P, G) from (P, G) rewards: each less the mean of the other answers to its prompt. NaN rewards count nowhere."""
    known = ~np.isnan(rewards)
    others = np.maximum(known.sum(axis=1, keepdims=True) - 1, 1)
    baseline = (np.nansum(rewards, axis=1, keepdims=True) - np.nan_to_num(rewards)) / others
    alone = known.sum(axis=1, keepdims=True) < 2
    return np.where(known & ~alone, np.nan_to_num(rewards) - baseline, 0.0)
