"""What a check found on one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rayloom.score.intervals import Part


@dataclass(frozen=True)
class Measured:
    """One check on one model."""

    metrics: dict[str, Any]
    predictions: list[dict[str, Any]] = field(default_factory=list)
    """What the model said, for reading: one mapping for each prompt or text."""
    parts: list[Part] = field(default_factory=list)
    """What each text adds to the score, so that two models can be compared text by text."""
