"""Everything that is wrong with the rows of a data set, said at once, except what the spec says may be left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from rayloom.errors import InputError

NUM_PROBLEMS_SHOWN = 20
NUM_PLACES_SHOWN = 30
"""Of so many further rows only the place and the problem's name are said; behind them, rows in a row are one."""
NUM_RUNS_SHOWN = 100
_NUMBERED = re.compile(r"(.*) row (\d+)")


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
    places: list[tuple[str, str]] = field(default_factory=list)
    """Where each of them is, and which it is: `file.json row 7`, `empty_answer`."""

    def add(self, origin: str, error: RowError) -> None:
        self.add_said(origin, error.problem, str(error))

    def add_said(self, origin: str, problem: str, said: str) -> None:
        """The same for an error of which another process told."""
        if problem in self.leave_out:
            self.left_out[problem] += 1
        else:
            self.places.append((origin, problem))
            self.said.append(f"{origin} ({problem}): {said}")

    def raise_any(self) -> None:
        """Raises InputError with every row that is wrong by its number, the first of them in full."""
        if not self.said:
            return
        shown = "\n".join(f"  {line}" for line in self.said[:NUM_PROBLEMS_SHOWN])
        rest = self._rest() if len(self.said) > NUM_PROBLEMS_SHOWN else ""
        count = "1 row" if len(self.said) == 1 else f"{len(self.said)} rows"
        fix = "Correct these rows, or name the problems whose rows data.leave_out may drop."
        raise InputError(f"{count} cannot be trained on:\n{shown}{rest}", fix=fix)

    def _rest(self) -> str:
        more = self.places[NUM_PROBLEMS_SHOWN:]
        named = [f"{origin} ({problem})" for origin, problem in more[:NUM_PLACES_SHOWN]]
        runs = list(_runs(more[NUM_PLACES_SHOWN:]))
        named += [run.said for run in runs[:NUM_RUNS_SHOWN]]
        unnamed = sum(run.num_rows for run in runs[NUM_RUNS_SHOWN:])
        last = f", and {unnamed:,} further ones" if unnamed else ""
        return f"\n  and {len(more):,} more: {', '.join(named)}{last}"


@dataclass(frozen=True)
class _Run:
    """Rows of one file that follow each other and have the same problem, or one row whose origin has no number."""

    origin: str
    problem: str
    first: int | None = None
    last: int | None = None

    @property
    def num_rows(self) -> int:
        return 1 if self.first is None or self.last is None else self.last - self.first + 1

    @property
    def said(self) -> str:
        if self.first is None:
            return f"{self.origin} ({self.problem})"
        rows = f"row {self.first}" if self.first == self.last else f"rows {self.first} to {self.last}"
        return f"{self.origin} {rows} ({self.problem})"


def _runs(places: Sequence[tuple[str, str]]) -> Iterator[_Run]:
    run: _Run | None = None
    for origin, problem in places:
        found = _NUMBERED.fullmatch(origin)
        here = _Run(found[1], problem, int(found[2]), int(found[2])) if found else _Run(origin, problem)
        if run is not None and run.last is not None and here == replace(run, first=run.last + 1, last=run.last + 1):
            run = replace(run, last=here.last)
            continue
        if run is not None:
            yield run
        run = here
    if run is not None:
        yield run
