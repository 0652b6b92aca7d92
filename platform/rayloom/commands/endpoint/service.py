"""`rayloom serve` and `rayloom keys`: changes to running services of a store, and their API keys."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rayloom.artifacts.store import Store
from rayloom.commands.output import console, emit_json, plain_table, when
from rayloom.dispatch import load_job, resolve
from rayloom.errors import InputError, RayloomError, ResourceError
from rayloom.observe.progress import say
from rayloom.serve import api_keys, control_records
from rayloom.serve.replicas.start_times import StartTimes
from rayloom.specs.serve import ServeSpec

POLL_SECONDS = 0.5


def update(options: argparse.Namespace) -> int:
    """Updates a running service to the present job file."""
    job = load_job(options.file, options.set)
    if not isinstance(job.spec, ServeSpec):
        raise InputError(f"This is a {job.spec.kind} job, not a service", where=str(options.file))
    store = Store.beside(job.directory)
    control_records.running(store, job.spec.name)
    resolved = resolve(job, store)
    artifacts = {path: artifact.id for path, artifact in resolved.parents.items()}
    spec = resolved.spec.model_dump(mode="json", by_alias=True)
    return _ask(
        store,
        control_records.ChangeRequest(job.spec.name, "update", spec=spec, artifacts=artifacts, share=options.share),
    )


def promote(options: argparse.Namespace) -> int:
    return _ask(Store.beside(Path.cwd()), control_records.ChangeRequest(options.service, "promote"))


def rollback(options: argparse.Namespace) -> int:
    return _ask(Store.beside(Path.cwd()), control_records.ChangeRequest(options.service, "rollback"))


def status(options: argparse.Namespace) -> int:
    """Prints every service of the store, or one. Returns 1 if none of them is running."""
    store = Store.beside(Path.cwd())
    services = [state for state in control_records.states(store) if options.service in (None, state.service)]
    up = [state for state in services if control_records.is_up(state)]
    if options.json:
        emit_json([{"service": s.service, "url": s.url, "is_up": s in up, "models": s.models} for s in services])
    else:
        table = plain_table("service", "state", "url", "model", "artifact", "share", "replicas")
        for state in services:
            for model, versions in state.models.items():
                for version in versions:
                    shown = "up" if state in up else "gone"
                    share = f"{version['share']:.0%}"
                    replicas = str(version["replicas"])
                    table.add_row(state.service, shown, state.url, model, version["artifact"], share, replicas)
        console().print(table)
        for state in up:
            for model, versions in state.models.items():
                for version in versions:
                    if version.get("start"):
                        say(f"{model} ({version['artifact']}) {StartTimes(**version['start'])}")
    return 0 if up else 1


def _ask(store: Store, request: control_records.ChangeRequest) -> int:
    """Requests a change through the store, and waits until the service reports success or failure."""
    control_records.running(store, request.service)
    control_records.post(store, request)
    while True:
        state = control_records.state_of(store, request.service)
        if state is not None and state.request_id == request.id and state.progress in ("done", "failed"):
            break
        if state is None or (state.progress != "working" and not control_records.is_up(state)):
            raise ResourceError(f"The service {request.service} ended meanwhile", where=store.uri)
        time.sleep(POLL_SECONDS)
    if state.progress == "failed":
        raise RayloomError(f"{request.service} was not changed: {state.message}")
    say(f"{request.service}: {state.message}")
    return 0


# `rayloom keys`: the API keys of a store's services.


def create(options: argparse.Namespace) -> int:
    """Prints the new key, and nothing else, on standard output."""
    key, secret = api_keys.create(_store(), options.name, options.requests_per_minute)
    sys.stdout.write(secret + "\n")
    say(f"key {key.id} for {key.name}: it is shown only this once; the store keeps a digest")
    return 0


def list_all(options: argparse.Namespace) -> int:
    keys = api_keys.listed(_store())
    if options.json:
        shown = ("id", "name", "created_at", "requests_per_minute", "revoked_at")
        emit_json([{name: getattr(key, name) for name in shown} for key in keys])
        return 0
    table = plain_table("id", "name", "created", "requests/min", "revoked")
    for key in keys:
        limit = str(key.requests_per_minute or "")
        table.add_row(key.id, key.name, when(key.created_at), limit, when(key.revoked_at or ""))
    console().print(table)
    return 0


def revoke(options: argparse.Namespace) -> int:
    key = api_keys.revoke(_store(), options.id)
    say(f"key {key.id} of {key.name} is no longer valid; running services refuse it within {api_keys.READ_SECONDS:g} s")
    return 0


def _store() -> Store:
    return Store.beside(Path.cwd())
