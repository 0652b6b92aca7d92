"""Small made-up inputs of the kinds that went wrong in tools of this field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CASES = Path(__file__).parents[1] / "cases"


def case_rows(name: str) -> list[dict[str, Any]]:
    """The rows of `tests/cases/rows/NAME.jsonl`."""
    return [json.loads(line) for line in (CASES / "rows" / f"{name}.jsonl").read_text().splitlines()]
