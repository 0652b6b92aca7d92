"""Output of commands on standard output: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH_IN_PIPES = 200


def console() -> Console:
    """A console on standard output; wide if that is not a terminal, so that nothing is cut off."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_IN_PIPES)


def emit_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def plain_table(*columns: str) -> Table:
    """A table without frames, so that columns can be copied."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column == "size" else "left")
    return table


def size(num_bytes: float) -> str:
    """`98.4 MB`: decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def when(created_at: str) -> str:
    """`2026-11-21 21:40` from an ISO 8601 time."""
    return created_at[:16].replace("T", " ")
