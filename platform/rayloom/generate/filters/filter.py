"""What a filter looks at and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Candidate:
    """A prompt with what was written for it."""

    prompt: str
    answer: str
    is_cut: bool = False
    """Whether the answer ended only because it was as long as allowed."""
    is_new: bool = False
    """Whether the prompt was written too, and not given."""


class DropReason(NamedTuple):
    """Why something is dropped, and what was seen, for people."""

    reason: str
    seen: str = ""


class Filter:
    """Keeps everything."""

    def of_instruction(self, text: str) -> DropReason | None:  # noqa: ARG002
        """Why a new instruction is dropped."""
        return None

    def of_row(self, row: Candidate) -> DropReason | None:  # noqa: ARG002
        """Why a row is dropped."""
        return None

    def keep_instruction(self, text: str) -> None:
        """Remembers an instruction that all filters kept."""

    def keep_row(self, row: Candidate) -> None:
        """Remembers a row that all filters kept."""
