"""Where the rows of judged answers went, and which of them are short enough."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from rayloom.errors import InputError
from rayloom.specs.training.preferences import PreferenceData
from rayloom.text.row_problems import RowProblems


@dataclass
class PreferenceCounts:
    """Where every row went."""

    rows_read: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    unknown_keys: dict[str, int] = field(default_factory=dict)
    """Keys of rows and messages (`messages.KEY`) that have no meaning, by how many have them."""
    lengths_tokens: dict[str, int] = field(default_factory=dict)
    train: dict[str, int] = field(default_factory=dict)
    heldout: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class RowOfData(Protocol):
    """Any row that has a length."""

    @property
    def origin(self) -> str: ...
    @property
    def length_tokens(self) -> int: ...


R = TypeVar("R", bound=RowOfData)


def within_length(
    rows: list[R], data: PreferenceData, limit: int, counts: PreferenceCounts, problems: RowProblems
) -> list[R]:
    """The rows that fit. Raises InputError where the job's length policy does not allow to leave the others out."""
    if rows:
        found = np.percentile([row.length_tokens for row in rows], [50, 90, 99, 100], method="higher")
        names = ("median", "p90", "p99", "longest")
        counts.lengths_tokens = dict(zip(names, (int(length) for length in found), strict=True))
    too_long = [row for row in rows if row.length_tokens > limit]
    if not too_long:
        return rows
    share = len(too_long) / len(rows)
    named = ", ".join(f"{row.origin} ({row.length_tokens})" for row in too_long[:5])
    what = f"{len(too_long)} of {len(rows)} pairs are longer than sequence_length_tokens ({limit}): {named}"
    longest = max(row.length_tokens for row in too_long)
    if data.length_policy == "error":
        raise InputError(what, fix=f"Raise sequence_length_tokens to {longest}, or set length_policy: drop.")
    if share > data.max_length_policy_share:
        fix = f"Raise sequence_length_tokens to {longest}, or data.max_length_policy_share."
        raise InputError(f"{what}; that is {share:.1%}, over max_length_policy_share", fix=fix)
    problems.left_out["longer_than_sequence_length"] = len(too_long)
    return [row for row in rows if row.length_tokens <= limit]
