"""Generalised advantages with a critic (Schulman et al. 2016, arXiv:1506.02438, equation 16). T tokens of an answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rayloom.specs.training.policies import Ppo

EPSILON = 1e-8
Values = NDArray[np.float64]


def generalised(policy: Ppo, rewards: Values, values: Values) -> Values:
    """(T,) advantages from (T,) rewards of the tokens and (T,) values before them; after the last token comes nothing.

    A_t = δ_t + γλ · A_{t+1} with δ_t = r_t + γ · V_{t+1} − V_t.
    """
    found, following, value_after = np.zeros_like(rewards), 0.0, 0.0
    for place in range(len(rewards) - 1, -1, -1):
        surprise = rewards[place] + policy.discount * value_after - values[place]
        following = surprise + policy.discount * policy.trace_decay * following
        found[place], value_after = following, values[place]
    return found


def advantages(
    policy: Ppo, rewards: Values, penalties: Sequence[Values], values: Sequence[Values]
) -> tuple[list[Values], list[Values]]:
    """(T,) advantages of each answer, at mean 0 and deviation 1 over all tokens, and (T,) returns for the critic.

    rewards: (A,) each comes with the last token. penalties and values: (T,) for each answer.
    """
    raw = []
    for reward, penalty, before in zip(rewards, penalties, values, strict=True):
        of_tokens = -penalty
        of_tokens[-1] += reward
        raw.append(generalised(policy, of_tokens, before))
    returns = [found + before for found, before in zip(raw, values, strict=True)]
    known = np.concatenate([one for one in raw if not np.isnan(one).any()] or [np.zeros(1)])
    normalised = [(one - known.mean()) / (known.std() + EPSILON) for one in raw]
    return normalised, returns
