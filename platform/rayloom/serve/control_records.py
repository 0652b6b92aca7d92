"""Where a running service says how it is, and takes requests to change: two records in the store.

`rayloom run` keeps a service up wherever it runs: on this machine, as a job on a cluster, in a pod. Another command can
reach the store, but not always that process, so they talk through it. The service looks once a second.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rayloom.artifacts.store import Store
from rayloom.errors import ResourceError
from rayloom.serve import records

FOLDER = ".services"
BEAT_SECONDS = 2.0
LATE_SECONDS = 30.0
"""A service that has not said anything for so long is taken for gone."""

Action = Literal["update", "promote", "rollback"]


@dataclass(frozen=True)
class Request:
    """What somebody wants changed."""

    service: str
    action: Action
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    spec: dict[str, Any] | None = None
    """For an update: the whole new spec."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """For an update: NAME@VERSION of each reference, by dotted path."""
    share: float = 1.0
    """For an update: the part of the requests that new versions get until they are promoted."""


@dataclass(frozen=True)
class State:
    """What a service says of itself."""

    service: str
    url: str
    beat: float
    """Seconds since 1970 when this was written."""
    models: dict[str, list[dict[str, Any]]]
    """`artifact`, `share` and `replicas` of each version of each model."""
    request_id: str = ""
    """The last request that was taken up."""
    progress: Literal["", "working", "done", "failed"] = ""
    message: str = ""


def post(store: Store, request: Request) -> None:
    records.write(store, FOLDER, f"{request.service}.request", asdict(request))


def posted(store: Store, service: str) -> Request | None:
    record = records.read(store, FOLDER, f"{service}.request")
    return Request(**record) if record else None


def say_state(store: Store, state: State) -> None:
    records.write(store, FOLDER, f"{state.service}.state", asdict(state))


def forget(store: Store, service: str) -> None:
    """Of a service that ends."""
    records.remove(store, FOLDER, f"{service}.state")
    records.remove(store, FOLDER, f"{service}.request")


def state_of(store: Store, service: str) -> State | None:
    record = records.read(store, FOLDER, f"{service}.state")
    return State(**record) if record else None


def states(store: Store) -> list[State]:
    """Every service of the store, also those that were killed and could not say so."""
    return [State(**record) for record in records.read_all(store, FOLDER) if "beat" in record]


def is_up(state: State) -> bool:
    return time.time() - state.beat < LATE_SECONDS


def running(store: Store, service: str) -> State:
    """The state of a service that is up. Raises ResourceError."""
    state = state_of(store, service)
    if state is None or not is_up(state):
        up = ", ".join(state.service for state in states(store) if is_up(state)) or "none"
        fix = f"Start it with `rayloom run` on its job file; running services: {up}."
        raise ResourceError(f"The service {service} is not running", where=store.uri, fix=fix)
    return state
