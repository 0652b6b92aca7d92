"""Counts of rows by what happened to them, as plain numbers summed over chunks; and samples of rows for people."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RowCounts:
    """Rows read, kept and dropped, by source."""

    rows_in: Counter[str] = field(default_factory=Counter)
    """Rows that could be read, by source."""
    bad_rows: Counter[str] = field(default_factory=Counter)
    """`source/reason`"""
    dropped: Counter[str] = field(default_factory=Counter)
    """`source/reason`"""
    kept: Counter[str] = field(default_factory=Counter)
    """Documents that passed the rules, by source; each piece of a split row counts as one."""
    shortened: Counter[str] = field(default_factory=Counter)
    """Kept documents that are pieces of a row or were truncated, by source."""
    characters: Counter[str] = field(default_factory=Counter)
    """Characters of the kept documents, by source."""
    notes: Counter[str] = field(default_factory=Counter)
    """Notes of rules on kept documents, by `source/kind/value`: `web/masked/email`, `web/languages/de`."""
    labels: Counter[str] = field(default_factory=Counter)
    """Kept documents by `source/label`, if rows are labelled."""
    lengths: Counter[str] = field(default_factory=Counter)
    """Kept documents by `source/b`; their length in characters is from 2^(b-1) to 2^b - 1."""

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
    """Documents dropped by a pass after judging, by reason, from the record of one of its tasks."""
    sums: Counter[str] = Counter(by_part(Counter(record.get("dropped", {})), 1))
    for kind in ("exact", "near"):
        sums[f"{kind}_duplicate"] += int(record.get(f"{kind}_duplicates", 0))
    return dict(+sums)


# Samples of rows for people to read, some for each reason; the choice does not depend on the order of the rows.


def chosen(rows: Iterable[dict[str, Any]], per_reason: int) -> list[dict[str, Any]]:
    """For each reason, the `per_reason` rows whose origin (file, row, piece) has the smallest hash."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_reason.setdefault(row["reason"], []).append(row)
    return [row for _, group in sorted(by_reason.items()) for row in heapq.nsmallest(per_reason, group, _order)]


def _order(row: dict[str, Any]) -> str:
    origin = "\0".join(str(row.get(name, "")) for name in ("source", "file", "row", "piece"))
    return hashlib.sha256(origin.encode()).hexdigest()
