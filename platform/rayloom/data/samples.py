"""Samples of rows for people to read, some for each reason; the choice does not depend on the order of the rows."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rayloom.artifacts.files import read_json_lines


def chosen(rows: Iterable[dict[str, Any]], per_reason: int) -> list[dict[str, Any]]:
    """For each reason, the `per_reason` rows whose origin (file, row, piece) has the smallest hash."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_reason.setdefault(row["reason"], []).append(row)
    return [row for _, group in sorted(by_reason.items()) for row in heapq.nsmallest(per_reason, group, _order)]


def merged(files: Sequence[Path], per_reason: int) -> list[dict[str, Any]]:
    """The samples of all files, chosen from the samples of each."""
    found: list[dict[str, Any]] = []
    for path in files:
        if path.exists():
            found = chosen([*found, *read_json_lines(path)], per_reason)
    return found


def _order(row: dict[str, Any]) -> str:
    origin = "\0".join(str(row.get(name, "")) for name in ("source", "file", "row", "piece"))
    return hashlib.sha256(origin.encode()).hexdigest()
