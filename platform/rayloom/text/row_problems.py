"""Everything that is wrong with the rows of a data set, said at once, except what the spec says may be left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from rayloom.errors import InputError

NUM_PROBLEMS_SHOWN = 20


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

    def add(self, origin: str, error: RowError) -> None:
        if error.problem in self.leave_out:
            self.left_out[error.problem] += 1
        else:
            self.said.append(f"{origin} ({error.problem}): {error}")

    def raise_any(self) -> None:
        """Raises InputError with every row that is wrong by its number, the first of them in full."""
        if not self.said:
            return
        shown = "\n".join(f"  {line}" for line in self.said[:NUM_PROBLEMS_SHOWN])
        more = len(self.said) - NUM_PROBLEMS_SHOWN
        rest = f"\n  and {more} more" if more > 0 else ""
        count = "1 row" if len(self.said) == 1 else f"{len(self.said)} rows"
        fix = "Correct these rows, or name the problems whose rows data.leave_out may drop."
        raise InputError(f"{count} cannot be trained on:\n{shown}{rest}\n", fix=fix)
