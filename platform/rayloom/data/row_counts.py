"""Counts of what happened to rows, added up over chunks: plain numbers, so that they travel and print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RowCounts:
    """How many rows came in, and what became of them, by source."""

    rows_in: Counter[str] = field(default_factory=Counter)
    """Rows that could be read, by source."""
    bad_rows: Counter[str] = field(default_factory=Counter)
    """`source/reason`"""
    dropped: Counter[str] = field(default_factory=Counter)
    """`source/reason`"""
    kept: Counter[str] = field(default_factory=Counter)
    """Documents that passed, by source; pieces of a split row count one by one."""
    shortened: Counter[str] = field(default_factory=Counter)
    """Pieces and truncated documents among the kept, by source."""
    characters: Counter[str] = field(default_factory=Counter)
    """Of the kept documents, by source."""
    notes: Counter[str] = field(default_factory=Counter)
    """What rules noted in kept documents, by `source/kind/value`: `web/masked/email`, `web/languages/de`."""
    labels: Counter[str] = field(default_factory=Counter)
    """Kept documents by `source/label`, where rows are labelled."""
    lengths: Counter[str] = field(default_factory=Counter)
    """Kept documents by `source/b`, where their length in characters has b binary digits: 2^(b-1) to 2^b - 1."""

    def add(self, other: RowCounts) -> None:
        for name, counter in vars(other).items():
            getattr(self, name).update(counter)

    def as_json(self) -> dict[str, dict[str, int]]:
        return {name: dict(sorted(counter.items())) for name, counter in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, dict[str, int]]) -> RowCounts:
        return cls(**{name: Counter(counts) for name, counts in values.items()})


def by_part(counter: Counter[str], part: int) -> dict[str, int]:
    """Sums of a `source/reason` counter by source (part 0) or by reason (part 1), largest first."""
    sums: Counter[str] = Counter()
    for name, count in counter.items():
        sums[name.split("/", 1)[part]] += count
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


def noted(counter: Counter[str], kind: str) -> dict[str, int]:
    """The notes of one kind over all sources, by value, largest first."""
    mine: Counter[str] = Counter()
    for name, count in counter.items():
        _, its_kind, value = name.split("/", 2)
        if its_kind == kind:
            mine[value] += count
    return dict(sorted(mine.items(), key=lambda item: (-item[1], item[0])))


def later_drops(record: Mapping[str, Any]) -> dict[str, int]:
    """What a pass behind judging dropped, by reason, from the record of one of its tasks."""
    sums: Counter[str] = Counter(by_part(Counter(record.get("dropped", {})), 1))
    for kind in ("exact", "near"):
        sums[f"{kind}_duplicate"] += int(record.get(f"{kind}_duplicates", 0))
    return dict(+sums)
