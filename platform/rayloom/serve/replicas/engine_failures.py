"""Why an engine did not start: its own cause, out of the pages that vLLM and Ray Serve print around it."""

from __future__ import annotations

import re

_RAISED = re.compile(r"(?:^|[\s:])((?:\w+\.)*[A-Z]\w*(?:Error|Exception)): (?P<text>\S.*)$")
# What vLLM and Serve say when something else failed before.
_CONSEQUENCES = (
    "Engine core initialization failed", "EngineCore encountered", "See root cause", "cancelled", "EngineDeadError",
    "RayTaskError", "Failed to create vLLM engine config",
)  # fmt: skip
CAUSE = "The engine did not start: "
"""How a replica begins the message of its own failure, so that it is found in what Serve makes of it."""


def engine_cause(printed: str) -> str | None:
    """The first error in an engine's output that is not the consequence of another, as one sentence."""
    for line in printed.splitlines():
        found = _RAISED.search(line)
        if found and not any(text in line for text in _CONSEQUENCES):
            return _one_sentence(found["text"])
    return None


def cause_in(message: str) -> str | None:
    """The cause that a replica reported, out of Serve's message about a deployment that failed."""
    for line in message.splitlines():
        before, mark, cause = line.partition(CAUSE)
        if mark and "raise" not in before:
            return cause.strip()
    return engine_cause(message)


def _one_sentence(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".")
