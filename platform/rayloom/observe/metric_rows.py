"""Nested values as flat rows, for tables of metrics and specs."""

from __future__ import annotations

from typing import Any


def metric_rows(values: Any, path: str = "") -> list[tuple[str, Any]]:
    """Dotted path and value of every leaf. Lists of plain values stay one row."""
    if isinstance(values, dict) and values:
        return [row for key, value in values.items() for row in metric_rows(value, f"{path}.{key}" if path else key)]
    is_nested = isinstance(values, list) and any(isinstance(item, dict | list) for item in values)
    if is_nested:
        return [row for index, item in enumerate(values) for row in metric_rows(item, f"{path}.{index}")]
    if isinstance(values, list):
        return [(path, ", ".join(str(item) for item in values))]
    return [] if values is None or values == {} else [(path, values)]
