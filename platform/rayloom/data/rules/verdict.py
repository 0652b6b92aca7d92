"""What a rule says about a document: nothing, or why it is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Drop:
    """The document goes, for `reason`; `value` is what was measured, for the person who asks why."""

    reason: str
    value: float
    rule: str = ""
    """The family of rules that says so."""
    hits: tuple[dict[str, Any], ...] = ()
    """What the document was found to hold, where that is listed."""
