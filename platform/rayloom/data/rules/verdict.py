"""The result of a rule that drops a document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Drop:
    """The document is dropped for `reason`; `value` is the measured value that broke the limit."""

    reason: str
    value: float
    rule: str = ""
    """The family of rules that dropped it."""
    hits: tuple[dict[str, Any], ...] = ()
    """The passages of evaluation sets found in the document."""
