"""What an answer of a policy was worth beside others: the advantages of each method, made of rewards.

Shapes: P prompts, G answers to each, A = P · G answers, T tokens of one of them. A NaN reward is one that nobody could
give: it counts nowhere and has advantage 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rayloom.specs.training.policies import Grpo, Ppo

Values = NDArray[np.float64]
GROUP_EPSILON = 1e-4
"""Added to a group's standard deviation, as in GRPO's released code and its ports."""
EPSILON = 1e-8


def teaches(rewards: Values) -> NDArray[np.bool_]:
    """(P,) whether the answers to a prompt got different rewards, without which there is no gradient (Yu et al. 2025,
    arXiv:2503.14476, section 3.2)."""
    return np.asarray(np.nanmax(rewards, axis=1) - np.nanmin(rewards, axis=1) > 1e-9)


def grpo(policy: Grpo, rewards: Values) -> Values:
    """(P, G) from (P, G) rewards: (r − mean) / std in each group (Shao et al. 2024, arXiv:2402.03300, section 4.1.2),
    or r − mean (Dr. GRPO: Liu et al. 2025, arXiv:2503.20783)."""
    centred = rewards - np.nanmean(rewards, axis=1, keepdims=True)
    if policy.scale_by_std:
        # The sample's deviation, over G − 1 answers, as torch computes it.
        centred /= np.nanstd(rewards, axis=1, keepdims=True, ddof=1) + GROUP_EPSILON
    return np.asarray(np.nan_to_num(centred))


def rloo(rewards: Values) -> Values:
    """(P, G) from (P, G) rewards: each less the mean of the other answers to its prompt (leave-one-out: Ahmadian et al.
    2024, arXiv:2402.14740, equation 6)."""
    known = ~np.isnan(rewards)
    others = np.maximum(known.sum(axis=1, keepdims=True) - 1, 1)
    baseline = (np.nansum(rewards, axis=1, keepdims=True) - np.nan_to_num(rewards)) / others
    alone = known.sum(axis=1, keepdims=True) < 2
    return np.where(known & ~alone, np.nan_to_num(rewards) - baseline, 0.0)


def reinforce_pp(rewards: Values, penalties: Sequence[Values]) -> list[Values]:
    """(T,) for each answer: its reward less the penalties of this and all later tokens, normalised over all tokens
    (Hu et al. 2025, arXiv:2501.03262, equations 7 to 9).

    rewards: (P, G); with G > 1 the group's mean is taken off first. penalties: (T,) for each of the A answers.
    """
    if rewards.shape[1] > 1:
        rewards = rewards - np.nanmean(rewards, axis=1, keepdims=True)
    flat = rewards.reshape(-1)
    raw = [reward - np.cumsum(one[::-1])[::-1] for reward, one in zip(flat, penalties, strict=True)]
    return _normalised(raw)


def ppo(
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
    return _normalised(raw), returns


def generalised(policy: Ppo, rewards: Values, values: Values) -> Values:
    """(T,) advantages from (T,) rewards of the tokens and (T,) values before them; after the last token comes nothing.

    A_t = δ_t + γλ · A_{t+1} with δ_t = r_t + γ · V_{t+1} − V_t (Schulman et al. 2016, arXiv:1506.02438, equation 16).
    """
    found, following, value_after = np.zeros_like(rewards), 0.0, 0.0
    for place in range(len(rewards) - 1, -1, -1):
        surprise = rewards[place] + policy.discount * value_after - values[place]
        following = surprise + policy.discount * policy.trace_decay * following
        found[place], value_after = following, values[place]
    return found


def _normalised(raw: Sequence[Values]) -> list[Values]:
    """At mean 0 and deviation 1 over all tokens of all answers."""
    known = np.concatenate([one for one in raw if not np.isnan(one).any()] or [np.zeros(1)])
    mean, deviation = known.mean(), known.std()
    return [np.nan_to_num((one - mean) / (deviation + EPSILON)) for one in raw]
