"""Decides from the states of all stages of a pipeline which may start and which never will.

If a stage fails, those that need it are skipped and all others go on. After an interruption no other stage starts;
those that run are finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rayloom.artifacts.store import Artifact
from rayloom.errors import InterruptedJobError, QualityError, RayloomError
from rayloom.specs.pipeline import Stage

Status = Literal["waiting", "running", "finished", "refused", "failed", "stopped", "skipped"]
"""refused: the result is not good enough. stopped: by a person or a scheduler."""


_ENDED_BADLY: dict[str, str] = {"refused": "is not good enough", "failed": "failed", "stopped": "was stopped"}


@dataclass(frozen=True)
class State:
    """The state of one stage."""

    status: Status = "waiting"
    artifact: Artifact | None = None
    is_new: bool = False
    """Whether the artifact was made now, not found in the store."""
    why: str = ""
    """The reason, if the stage is refused, failed, stopped or skipped."""


@dataclass(frozen=True)
class Decision:
    """Stages to start and to skip now; if there are none and no stage runs, the pipeline is over."""

    start: list[str] = field(default_factory=list)
    skip: dict[str, str] = field(default_factory=dict)
    """Stages that will never run, with the reason."""


def decide(stages: Sequence[Stage], states: Mapping[str, State], max_parallel: int) -> Decision:
    """The stages to start and to skip. `stages` are in topological order."""
    decision = Decision()
    stopped = next((name for name, state in states.items() if state.status == "stopped"), None)
    room = max_parallel - sum(state.status == "running" for state in states.values())
    for stage in stages:
        if states[stage.name].status != "waiting":
            continue
        why = _never(stage, states, decision.skip) or (f"not started after {stopped} was stopped" if stopped else None)
        if why is not None:
            decision.skip[stage.name] = why
        elif room > len(decision.start) and all(states[need].status == "finished" for need in stage.needs):
            decision.start.append(stage.name)
    return decision


def after_error(error: RayloomError) -> State:
    """The state of a stage that ended with an error."""
    status: Status = "refused" if isinstance(error, QualityError) else "failed"
    status = "stopped" if isinstance(error, InterruptedJobError) else status
    return State(status, why=str(error).splitlines()[0])


def _never(stage: Stage, states: Mapping[str, State], skipped: Mapping[str, str]) -> str | None:
    """Why a stage cannot run any more, or None."""
    for need in stage.needs:
        if need in skipped or states[need].status == "skipped":
            return f"needs {need}, which was skipped"
        if states[need].status in _ENDED_BADLY:
            return f"needs {need}, which {_ENDED_BADLY[states[need].status]}"
    return None
