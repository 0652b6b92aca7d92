"""Where a benchmark's numbers are kept: `results/BENCH-HARDWARE-DATE.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def with_earlier(bench: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result, with what other parts of the bench measured earlier that day. `result` has hardware and date."""
    file = _file(bench, result)
    earlier: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return dict(result) | earlier | {key: value for key, value in result.items() if value is not None}


def save(bench: str, result: Mapping[str, Any]) -> None:
    """Writes the result with what was measured earlier that day."""
    RESULTS.mkdir(exist_ok=True)
    _file(bench, result).write_text(json.dumps(with_earlier(bench, result), indent=2) + "\n")


def _file(bench: str, result: Mapping[str, Any]) -> Path:
    return RESULTS / f"{bench}-{result['hardware']}-{result['date']}.json"
