"""Runs a `kind: serve` job: serves until stopped; in a pipeline, starts the service, checks it under load and stops."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Artifact, Store
from rayloom.observe.ports import check_port
from rayloom.observe.progress import say
from rayloom.observe.ray_session import connect
from rayloom.serve import api_keys, applications, control_records
from rayloom.serve.found_engines import choice_of_engine
from rayloom.serve.lifecycle import Service, access_log, check_before, start
from rayloom.serve.replicas.engine_settings import PredictorSettings
from rayloom.serve.replicas.predictor_requests import endpoint_of, example_input
from rayloom.serve.replicas.start_times import StartTimes
from rayloom.serve.rollout import ServiceChanges, attempt
from rayloom.serve.service_check import checked
from rayloom.specs.serve import ServeSpec

CHECK_REQUESTS_PER_MINUTE = 1_000_000
"""Rate limit of the check's key: the check sends requests as fast as they are answered."""


def serve_until_stopped(spec: ServeSpec, parents: Mapping[str, Artifact], job_directory: Path) -> None:
    """Serves until Ctrl-C or SIGTERM, then leaves no process and no port behind."""
    if "RAY_ADDRESS" not in os.environ:
        check_port(spec.host, spec.port)  # before any slow step
    session = connect()
    check_before(spec, parents, num_cores=session.num_cores if session.is_embedded else None)
    _say_engines(spec, parents)
    store = Store.beside(job_directory)
    with _stop_signals() as stopped:
        service = start(spec, parents, store, session, stopped.is_set)
        if service is not None:
            try:
                _announce(service)
                _watch(service, ServiceChanges(service, parents), stopped)
            finally:
                say("stopping")
                try:
                    control_records.forget(store, spec.name)
                finally:
                    service.stop()
        say("stopped: no process is left and the port is free")


def check(spec: ServeSpec, build: Build) -> Outcome:
    """Starts the service, checks an answer, loads it until all its replicas run, and stops it."""
    session = connect()
    check_before(spec, build.parents, num_cores=session.num_cores if session.is_embedded else None)
    _say_engines(spec, build.parents)
    with _key_of_the_check(spec, build.store) as api_key:
        service = start(spec, build.parents, build.store, session)
        assert service is not None  # only an exception can stop it here
        try:
            return checked(service, build.directory, api_key)
        finally:
            service.stop()


def _say_engines(spec: ServeSpec, parents: Mapping[str, Artifact]) -> None:
    """Says where each model's engine settings come from, if they are not the file's own."""
    for index, served in enumerate(spec.models):
        chosen = choice_of_engine(served, parents[f"models.{index}.model"])
        if chosen is not None:
            say(f"{served.name}: engine settings: {chosen}")


@contextmanager
def _key_of_the_check(spec: ServeSpec, store: Store) -> Iterator[str]:
    """A key that is valid during the check, if the service requires keys."""
    if not spec.doors.keys_required:
        yield "none"
        return
    key, secret = api_keys.create(store, "check of a pipeline", CHECK_REQUESTS_PER_MINUTE)
    try:
        yield secret
    finally:
        api_keys.revoke(store, key.id)


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


def _watch(service: Service, changes: ServiceChanges, stopped: threading.Event) -> None:
    """Until stopped, reports replica changes, writes the service's state to the store and makes requested changes."""
    channel = control_records.ControlChannel(service.store, service.spec.name)
    shown: dict[str, int] = {}
    state = control_records.ServiceState(service.spec.name, service.url, 0.0, {})
    while not stopped.is_set():
        request = channel.next_request()
        if request is not None:
            state = _changed(service, changes, request, channel, stopped)
        described = service.described()
        now = {model: sum(version["replicas"] for version in versions) for model, versions in described.items()}
        for model, count in now.items():
            if shown.get(model, count) != count:
                say(f"{model}: {count} replica{'s' if count != 1 else ''}")
        shown = now
        channel.write(dataclasses.replace(state, beat=time.time(), models=described))
        stopped.wait(control_records.BEAT_SECONDS)


def _changed(
    service: Service,
    changes: ServiceChanges,
    request: control_records.ChangeRequest,
    channel: control_records.ControlChannel,
    stopped: threading.Event,
) -> control_records.ServiceState:
    """Makes a change; returns the state with its outcome."""
    state = control_records.ServiceState(service.spec.name, service.url, time.time(), {}, request.id, "working")
    channel.write(state)
    say(f"asked to {request.action}")
    is_done, message = attempt(lambda: _made(service, changes, request, stopped))
    if is_done:
        say(message)
    return dataclasses.replace(state, progress="done" if is_done else "failed", message=message)


def _made(
    service: Service, changes: ServiceChanges, request: control_records.ChangeRequest, stopped: threading.Event
) -> str:
    if request.action == "promote":
        return changes.promote()
    if request.action == "rollback":
        return changes.rollback(stopped.is_set)
    store = service.store
    parents = {path: store.open(store.resolve(named)) for path, named in request.artifacts.items()}
    return changes.update(ServeSpec.model_validate(request.spec), parents, request.share, stopped.is_set)


def _announce(service: Service) -> None:
    """Prints the service's address and examples of requests."""
    spec = service.spec
    say(f"serving {', '.join(served.name for served in spec.served)} at {service.url} (Ctrl-C stops it)")
    for model, versions in service.described().items():
        if versions[0]["start"] is not None:
            say(f"  {model} {StartTimes(**versions[0]['start'])}")
    if spec.gateway_nodes == "several":
        say(f"  on {spec.gateway_replicas} nodes of the cluster, each at its own address")
    if spec.models:
        body = {"model": spec.models[0].name, "messages": [{"role": "user", "content": "Who are you?"}]}
        say(f"  rayloom chat {service.url}" + (f", or {service.url}/ in a browser" if spec.chat_page else ""))
        say(_curl(f"{service.url}/v1/chat/completions", body))
        say(f'  python: openai.OpenAI(base_url="{service.url}/v1", api_key="none")')
    for served in spec.predictors:
        engine = service.versions[served.name][0][0].engine
        assert isinstance(engine, PredictorSettings)
        body = {"model": served.name, "input": example_input(engine.task)}
        say(_curl(f"{service.url}{endpoint_of(engine.task).path}", body))
    if spec.predictors:
        say(f"  {service.url}/docs has the API reference")
    if spec.doors.keys_required:
        say("  every request needs `Authorization: Bearer KEY`; `rayloom keys create NAME` makes one")
    if spec.logs.access:
        say(f"  access log: {access_log(spec, service.store)}")
    say(f"  metrics for Prometheus: {', '.join(applications.metrics_addresses())}")


def _curl(url: str, body: dict[str, Any]) -> str:
    return f"  curl {url} -H 'content-type: application/json' -d '{json.dumps(body)}'"
