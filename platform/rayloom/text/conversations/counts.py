"""Where every row of a set of conversations went."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class SplitCounts:
    """What is in `train/` or `heldout/`; repeated rows count as often as they are repeated."""

    rows: int = 0
    samples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    packed_rows: int = 0
    filled_share: float = 0.0
    """Part of the packed rows' places that hold a token."""


@dataclass
class ConversationCounts:
    """Where every row went."""

    rows_read: dict[str, int] = field(default_factory=dict)
    """By source: the data set's reference and number."""
    left_out: dict[str, int] = field(default_factory=dict)
    """By reason: longer_than_max_row_tokens, over_limit_rows, same_as_a_heldout_row,
    longer_than_sequence_length, and the problems that the spec's `leave_out` names."""
    unknown_keys: dict[str, int] = field(default_factory=dict)
    """Keys of rows and messages (`messages.KEY`) that have no meaning, by how many have them."""
    truncated_rows: int = 0
    lengths_tokens: dict[str, int] = field(default_factory=dict)
    """Of rows before the length policy: median, p90, p99, longest."""
    repeated_in_training: int = 0
    """Training rows that train the same ids as an earlier one, beyond what `repeat` asks for."""
    train: SplitCounts = field(default_factory=SplitCounts)
    heldout: SplitCounts = field(default_factory=SplitCounts)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
