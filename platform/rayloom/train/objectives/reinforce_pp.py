"""REINFORCE++ advantages (Hu et al. 2025, arXiv:2501.03262, equations 7 to 9). A answers, T tokens of one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-8
Values = NDArray[np.float64]


def advantages(rewards: Values, penalties: Sequence[Values]) -> list[Values]:
    """(T,) for each answer: its reward less the penalties of this and all later tokens, normalised over all tokens.

    rewards: (P, G); with G > 1 the group's mean is taken off first. penalties: (T,) for each answer, P · G of them.
    """
    if rewards.shape[1] > 1:
        rewards = rewards - np.nanmean(rewards, axis=1, keepdims=True)
    flat = rewards.reshape(-1)
    raw = [reward - np.cumsum(one[::-1])[::-1] for reward, one in zip(flat, penalties, strict=True)]
    known = np.concatenate([one for one in raw if not np.isnan(one).any()] or [np.zeros(1)])
    mean, deviation = known.mean(), known.std()
    return [np.nan_to_num((one - mean) / (deviation + EPSILON)) for one in raw]
