"""Whether two formulas are equal, by Math-Verify. Called in a process of its own: SymPy may never end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from math_verify import parse, verify


def equal(prompt: Any, text: str, row: Mapping[str, Any], field: str, after: str | None = None) -> float:  # noqa: ARG001
    """1 if the text's last formula or number equals that of the row's field, else 0. Raises ValueError for no formula.

    Math-Verify's own time limits are off: they would give a wrong answer where there is none.
    """
    right = _formulas(str(row[field]))
    if not right:
        raise ValueError(f"{field} holds no formula: {row[field]!r:.80}")
    if after is not None:
        _, mark, text = text.rpartition(after)
        if not mark:
            return 0.0
    return float(verify(right, _formulas(text), timeout_seconds=None))


def _formulas(text: str) -> list[Any]:
    """What Math-Verify finds in a text; it looks for LaTeX between marks only, so a bare formula gets some."""
    return list(parse(text, parsing_timeout=None)) or list(parse(f"${text.strip()}$", parsing_timeout=None))
