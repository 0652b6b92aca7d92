"""The filters of written instructions and rows, in the order in which they are applied.

To add one, write a spec in `specs/generation/filters.py`, a class in this folder, and a line below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rayloom.generate.filters import repeated, written
from rayloom.generate.filters.filter import Candidate, DropReason, Filter
from rayloom.specs.generation.filters import GenerateFilters

FILTERS: dict[str, Callable[[Any, Sequence[str]], Filter]] = {
    "length": written.Length,
    "debris": written.Debris,
    "unanswerable": written.Unanswerable,
    "refusals": written.Refusals,
    "language": written.Language,
    "seed_words": repeated.SeedWords,
    "similar": repeated.TooSimilar,
    "near_duplicates": repeated.NearDuplicates,
}
"""By the name of its field in `GenerateFilters`: makes the filter of the field's value and the texts of the seeds."""


class Filters:
    """All filters that are turned on. What is kept is given to them, for it counts for what comes after."""

    def __init__(self, spec: GenerateFilters, seeds: Sequence[str] = ()) -> None:
        settings = {name: getattr(spec, name) for name in FILTERS}
        self._filters = [FILTERS[name](value, seeds) for name, value in settings.items() if value is not None]

    def of_instruction(self, text: str) -> DropReason | None:
        """Why a new instruction is dropped; None if it is kept."""
        return next(filter(None, (one.of_instruction(text) for one in self._filters)), None)

    def of_row(self, row: Candidate) -> DropReason | None:
        """Why a row is dropped; None if it is kept."""
        return next(filter(None, (one.of_row(row) for one in self._filters)), None)

    def keep_instruction(self, text: str) -> None:
        for one in self._filters:
            one.keep_instruction(text)

    def keep_row(self, row: Candidate) -> None:
        for one in self._filters:
            one.keep_row(row)
