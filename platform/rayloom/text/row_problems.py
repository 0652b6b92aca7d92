"""Everything that is wrong with the rows of a data set, said at once, except what the spec says may be left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from rayloom.errors import InputError

NUM_PROBLEMS_SHOWN = 20
NUM_PLACES_SHOWN = 500
"""Of further rows only the place and the problem's name are said."""


class RowError(Protocol):
    """What is wrong with one row, by the name that `leave_out` uses, and in words."""

    @property
    def problem(self) -> str: ...
    def __str__(self) -> str: ...


@dataclass
class RowProblems:
    """What is wrong with which rows."""

    leave_out: Collection[str]
    left_out: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    """Where each of them is: `file.json row 7 (empty_answer)`."""

    def add(self, origin: str, error: RowError) -> None:
        if error.problem in self.leave_out:
            self.left_out[error.problem] += 1
        else:
            self.places.append(f"{origin} ({error.problem})")
            self.said.append(f"{origin} ({error.problem}): {error}")

    def raise_any(self) -> None:
        """Raises InputError with every row that is wrong by its number, the first of them in full."""
        if not self.said:
            return
        shown = "\n".join(f"  {line}" for line in self.said[:NUM_PROBLEMS_SHOWN])
        rest = self._rest() if len(self.said) > NUM_PROBLEMS_SHOWN else ""
        count = "1 row" if len(self.said) == 1 else f"{len(self.said)} rows"
        fix = "Correct these rows, or name the problems whose rows data.leave_out may drop."
        raise InputError(f"{count} cannot be trained on:\n{shown}{rest}\n", fix=fix)

    def _rest(self) -> str:
        more = self.places[NUM_PROBLEMS_SHOWN:]
        named = ", ".join(more[:NUM_PLACES_SHOWN])
        last = f", and {len(more) - NUM_PLACES_SHOWN:,} further ones" if len(more) > NUM_PLACES_SHOWN else ""
        return f"\n  and {len(more):,} more: {named}{last}"
