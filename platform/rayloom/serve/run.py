"""`kind: serve`: stays up until stopped, or, in a pipeline, starts, is checked under load, and shuts down."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.observe.progress import say
from rayloom.observe.ray_session import connect
from rayloom.serve.check import checked
from rayloom.serve.lifecycle import Service, check_before, say_how_to_reach, start
from rayloom.specs.serve import ServeSpec

SECONDS_BETWEEN_LOOKS = 1.0


def serve_until_stopped(spec: ServeSpec, parents: Mapping[str, Artifact], job_directory: Path) -> None:
    """Serves until Ctrl-C or SIGTERM, then leaves no process and no port behind."""
    session = connect()
    check_before(spec, parents, num_cores=session.num_cores if session.is_embedded else None)
    with _stop_signals() as stopped:
        service = start(spec, parents, Store.beside(job_directory), session, stopped.is_set)
        if service is not None:
            try:
                say_how_to_reach(service)
                _watch(service, stopped)
            finally:
                say("stopping")
                service.stop()
        say("stopped: no process is left and the port is free")


def check(spec: ServeSpec, build: Build) -> Outcome:
    """Starts the service, asks it, loads it until it has grown, and shuts it down."""
    session = connect()
    check_before(spec, build.parents, num_cores=session.num_cores if session.is_embedded else None)
    service = start(spec, build.parents, build.store, session)
    assert service is not None  # nothing can stop it here but an exception
    try:
        outcome = checked(service, build.directory)
    finally:
        service.stop()
    return outcome


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second one, while the service stops, changes nothing."""
    stopped = threading.Event()

    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(service: Service, stopped: threading.Event) -> None:
    """Says when replicas come and go."""
    shown: dict[str, int] = {}
    while not stopped.wait(SECONDS_BETWEEN_LOOKS):
        now = service.replicas()
        for model, count in now.items():
            if shown.get(model, count) != count:
                say(f"{model}: {count} replica{'s' if count != 1 else ''}")
        shown = now
