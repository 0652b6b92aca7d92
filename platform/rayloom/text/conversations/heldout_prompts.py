"""Which rows are held out, and which of the others do not ask the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

from rayloom.errors import InputError
from rayloom.text.row_problems import RowProblems

Row = TypeVar("Row")


def in_drawn_order(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows in an order that depends on the seed and on how many there are."""
    return [rows[index] for index in np.random.default_rng([seed, len(rows)]).permutation(len(rows))]


def split_by_prompt(
    rows: Sequence[Row], num_heldout: int, prompt_of: Callable[[Row], Hashable], problems: RowProblems
) -> dict[str, list[Row]]:
    """The first rows as `heldout`; the others as `train`, without those whose prompt is held out, which are counted.

    Raises InputError if more than half would be held out, or nothing is left to train on.
    """
    if len(rows) < 2 * num_heldout:
        what = f"heldout_rows is {num_heldout}, but there are {len(rows)} rows"
        raise InputError(what, fix=f"Hold out at most {len(rows) // 2}, or add rows.")
    heldout, others = list(rows[:num_heldout]), rows[num_heldout:]
    known = set(map(prompt_of, heldout))
    train = [row for row in others if prompt_of(row) not in known]
    if len(train) < len(others):
        problems.left_out["same_prompt_as_a_heldout_row"] = len(others) - len(train)
    if not train:
        raise InputError("Every prompt is held out: the rows ask the same", fix="Give rows with other prompts.")
    return {"train": train, "heldout": heldout}
