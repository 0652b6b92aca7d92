"""Communication of commands with a running service, by two records in the store: its state, and a requested change.

The process that runs a service can be on this machine, in a cluster job or in a pod. Other commands can reach the
store, but not always that process. The service reads its record every BEAT_SECONDS.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from rayloom.artifacts.store import Store
from rayloom.errors import ResourceError
from rayloom.observe.progress import say
from rayloom.serve import records

FOLDER = ".services"
BEAT_SECONDS = 2.0
LATE_SECONDS = 30.0
"""A service whose state is older than this is taken as dead."""

T = TypeVar("T")
Action = Literal["update", "promote", "rollback"]


@dataclass(frozen=True)
class ChangeRequest:
    """A change that a command requests from a running service."""

    service: str
    action: Action
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    spec: dict[str, Any] | None = None
    """For an update: the complete new spec."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """For an update: NAME@VERSION of each reference, by dotted path."""
    share: float = 1.0
    """For an update: the share of the requests that new versions get until they are promoted."""


@dataclass(frozen=True)
class ServiceState:
    """The state that a service writes about itself."""

    service: str
    url: str
    beat: float
    """Seconds since 1970 when this was written."""
    models: dict[str, list[dict[str, Any]]]
    """`artifact`, `share`, `replicas` and `start` (StartTimes, or None) of each version of each model."""
    request_id: str = ""
    """Id of the last change that it began."""
    progress: Literal["", "working", "done", "failed"] = ""
    message: str = ""


def post(store: Store, request: ChangeRequest) -> None:
    records.write(store, FOLDER, f"{request.service}.request", asdict(request))


def posted(store: Store, service: str) -> ChangeRequest | None:
    record = records.read(store, FOLDER, f"{service}.request")
    return ChangeRequest(**record) if record else None


def write_state(store: Store, state: ServiceState) -> None:
    records.write(store, FOLDER, f"{state.service}.state", asdict(state))


class ControlChannel:
    """The service's side. While the store cannot be reached, the service keeps running and warns once."""

    def __init__(self, store: Store, service: str) -> None:
        self._store, self._service = store, service
        asked_before = posted(store, service)
        self._last_id = asked_before.id if asked_before else ""
        self._is_failing = False

    def next_request(self) -> ChangeRequest | None:
        """The change requested since the last call; None if there is none."""
        request = self._tried(lambda: posted(self._store, self._service))
        if request is None or request.id == self._last_id:
            return None
        self._last_id = request.id
        return request

    def write(self, state: ServiceState) -> None:
        self._tried(lambda: write_state(self._store, state))

    def _tried(self, action: Callable[[], T]) -> T | None:
        try:
            done = action()
        except Exception as error:  # noqa: BLE001 (each kind of store has errors of its own; none may end a service)
            if not self._is_failing:
                say(f"warning: the store cannot be used ({error}): no change can be asked for until it can")
            self._is_failing = True
            return None
        if self._is_failing:
            say("the store can be used again")
        self._is_failing = False
        return done


def forget(store: Store, service: str) -> None:
    """Removes the records of a service that ends."""
    records.remove(store, FOLDER, f"{service}.state")
    records.remove(store, FOLDER, f"{service}.request")


def state_of(store: Store, service: str) -> ServiceState | None:
    record = records.read(store, FOLDER, f"{service}.state")
    return ServiceState(**record) if record else None


def states(store: Store) -> list[ServiceState]:
    """The states of all services of the store, including records left by killed ones."""
    return [ServiceState(**record) for record in records.read_all(store, FOLDER) if "beat" in record]


def is_up(state: ServiceState) -> bool:
    return time.time() - state.beat < LATE_SECONDS


def running(store: Store, service: str) -> ServiceState:
    """The state of a running service. Raises ResourceError if it is not running."""
    state = state_of(store, service)
    if state is None or not is_up(state):
        up = ", ".join(state.service for state in states(store) if is_up(state)) or "none"
        fix = f"Start it with `rayloom run` on its job file; running services: {up}."
        raise ResourceError(f"The service {service} is not running", where=store.uri, fix=fix)
    return state
