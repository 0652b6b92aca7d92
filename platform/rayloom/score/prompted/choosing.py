"""From log-likelihoods of words to a label: several words a label, their lengths, and contextual calibration.

Shapes: N rows, F rows that say nothing, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def label_scores(words: Sequence[Sequence[float]]) -> list[float]:
    """The logarithm of the mean probability of each label's words, from their log-likelihoods."""
    return [float(np.logaddexp.reduce(own) - np.log(len(own))) for own in words]


def probabilities(scores: Floats) -> Floats:
    """(N, K) shares of the labels among each other."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def calibrated(scores: Floats, content_free: Floats) -> Floats:
    """(N, K) scores corrected by those (F, K) of rows that say nothing: p ∝ p / mean p there.

    Zhao et al. 2021, arXiv:2102.09690, section 5: W = diag(p_cf)⁻¹, b = 0.
    """
    prior = probabilities(content_free).mean(axis=0)
    corrected: Floats = np.log(np.maximum(probabilities(scores), 1e-300)) - np.log(np.maximum(prior, 1e-300))
    return corrected
