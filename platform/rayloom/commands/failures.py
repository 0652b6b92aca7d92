"""What a person reads when a command fails."""

from __future__ import annotations

from rayloom.engine_errors import causes
from rayloom.errors import unwrapped


def message_for(error: BaseException) -> tuple[str, int]:
    """The message for the person, with the notes of all that the error wraps, and the exit code."""
    meant = unwrapped(error)
    notes = dict.fromkeys(note for inner in causes(error) for note in getattr(inner, "__notes__", ()))
    return "\n".join([f"error: {meant}", *notes]), meant.exit_code
