"""Group relative advantages (Shao et al. 2024, arXiv:2402.03300, section 4.1.2; Liu et al. 2025, arXiv:2503.20783).

Shapes: P prompts, G answers to each, A = P · G answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayloom.specs.training.policies import Grpo

EPSILON = 1e-4
"""Added to a group's standard deviation, as in the paper's released code and its ports."""


def advantages(policy: Grpo, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P, G) from (P, G) rewards: (r − mean) / std in each group, or r − mean (Dr. GRPO). A NaN reward, which nobody
    could give, counts in no group and has advantage 0."""
    centred = rewards - np.nanmean(rewards, axis=1, keepdims=True)
    if policy.scale_by_std:
        # The sample's deviation, over G − 1 answers, as torch computes it.
        centred /= np.nanstd(rewards, axis=1, keepdims=True, ddof=1) + EPSILON
    return np.asarray(np.nan_to_num(centred))


def teaches(rewards: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(P,) whether the answers to a prompt got different rewards, without which there is no gradient (Yu et al. 2025,
    arXiv:2503.14476, section 3.2)."""
    return np.asarray(np.nanmax(rewards, axis=1) - np.nanmin(rewards, axis=1) > 1e-9)
