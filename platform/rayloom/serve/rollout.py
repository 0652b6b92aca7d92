"""Changes to a running service without a gap (blue-green or canary): new versions are started and tested first.

A new version is an application of its own. The gateway sends it requests only after it has answered a test question;
then the old version finishes its requests and ends. A version that fails its test never gets a request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError, QualityError, RayloomError, ResourceError
from rayloom.observe.progress import say
from rayloom.serve import applications as app
from rayloom.serve.lifecycle import (
    Service,
    Version,
    check_models,
    deploy,
    versions_of,
    wait_until_running,
)
from rayloom.serve.replicas.engine_settings import PredictorSettings
from rayloom.serve.replicas.predictor_requests import endpoint_of, example_input
from rayloom.specs.serve import ServeCheck, ServeSpec

Stopped = Callable[[], bool]
FIXED = ("name", "host", "port", "profile", "chat_page", "gateway_replicas", "gateway_nodes", "doors", "logs")
"""Fields that cannot change while the service runs: the gateway and Ray Serve were started with them."""


@dataclass(frozen=True)
class Revision:
    """A spec with the artifacts that its references were resolved to."""

    spec: ServeSpec
    parents: Mapping[str, Artifact]


class ServiceChanges:
    """Makes changes to one service; the last one can be undone."""

    def __init__(self, service: Service, parents: Mapping[str, Artifact]) -> None:
        self.service = service
        self._now = Revision(service.spec, parents)
        self._before: Revision | None = None
        self._generation = 1

    def update(
        self, spec: ServeSpec, parents: Mapping[str, Artifact], share: float = 1.0, is_stopped: Stopped = lambda: False
    ) -> str:
        """Updates the service to the spec; returns a message. `share`: share of requests for new versions.

        If a new version does not start or answer, raises RayloomError and leaves the service as it was.
        """
        self._check(spec, parents)
        if any(len(running) > 1 for running in self.service.versions.values()):
            fix = "Promote it or roll it back first."
            raise InputError("A new version is still on trial", where=spec.name, fix=fix)
        fresh = self._fresh(spec, parents)
        if fresh:
            self._start(fresh, spec, is_stopped)
        old = self.service.versions
        self.service.versions = {
            served.name: _shared(old.get(served.name), fresh.get(served.name), share) for served in spec.served
        }
        self.service.spec = spec
        self._route()
        self._before, self._now = self._now, Revision(spec, parents)
        self._retire(old)
        return _description(fresh, share)

    def promote(self) -> str:
        """Gives all requests to the versions on trial."""
        return self._settle(-1, "promoted")

    def rollback(self, is_stopped: Stopped = lambda: False) -> str:
        """Removes the versions on trial; if there are none, undoes the last update."""
        if any(len(running) > 1 for running in self.service.versions.values()):
            assert self._before is not None
            message = self._settle(0, "taken back")
            self.service.spec = self._before.spec
            self._now, self._before = self._before, None
            return message
        if self._before is None:
            raise InputError("There is no update to undo", where=self.service.spec.name)
        return f"back: {self.update(self._before.spec, self._before.parents, is_stopped=is_stopped)}"

    def _check(self, spec: ServeSpec, parents: Mapping[str, Artifact]) -> None:
        current = self.service.spec
        if current.is_direct:
            fix = "Stop it and start it anew, or serve it with profile: full."
            raise InputError("A service with profile: direct cannot change while it runs", where=spec.name, fix=fix)
        changed = [name for name in FIXED if getattr(spec, name) != getattr(current, name)]
        if changed:
            what = f"A running service cannot change {', '.join(changed)}"
            raise InputError(
                what,
                where=spec.name,
                fix="Only `models`, `predictors` and `check` may differ; restart it for the rest.",
            )
        check_models(spec, parents)

    def _fresh(self, spec: ServeSpec, parents: Mapping[str, Artifact]) -> dict[str, Version]:
        """New versions of the models whose engine settings differ from the running ones."""
        self._generation += 1
        fresh = {}
        for name, wanted in versions_of(spec, parents, self.service.store, self._generation).items():
            running = self.service.versions.get(name)
            if running is None or running[0][0].engine != wanted.engine:
                fresh[name] = wanted
        return fresh

    def _start(self, fresh: dict[str, Version], spec: ServeSpec, is_stopped: Stopped) -> None:
        applications = [v.application for v in fresh.values()]
        try:
            deploy(fresh.values(), spec)
            if not wait_until_running(applications, is_stopped):
                raise ResourceError("The service was stopped before the change was made")
            for name, new in fresh.items():
                is_first = bool(spec.models) and name == spec.models[0].name
                first_question(name, new, spec.check if is_first else None)
        except BaseException:
            app.remove(applications)
            raise

    def _settle(self, kept: int, word: str) -> str:
        """Keeps the first (0) or the newest (-1) version of each model."""
        old = self.service.versions
        on_trial = [name for name, running in old.items() if len(running) > 1]
        if not on_trial:
            raise InputError("No version is on trial", where=self.service.spec.name)
        self.service.versions = {name: [(running[kept][0], 1.0)] for name, running in old.items()}
        self._route()
        self._retire(old)
        return f"{', '.join(on_trial)}: the version on trial was {word}"

    def _route(self) -> None:
        """Updates the routes and returns when every gateway uses them, so that retired versions get no requests."""
        self.service.route()
        wait_until_running([self.service.spec.name])

    def _retire(self, old: Mapping[str, list[tuple[Version, float]]]) -> None:
        """Deletes versions that get no requests any more, each after its last answer."""
        kept = set(self.service.applications())
        gone = {v.application: v.engine for running in old.values() for v, _ in running if v.application not in kept}
        if gone:
            app.retire(gone, self.service.spec.gateway_replicas, self.service.spec.doors.deadline_seconds)


def first_question(model: str, new: Version, check: ServeCheck | None) -> None:
    """Sends a test question to a running version. Raises QualityError if the answer is not as expected."""
    asked: dict[str, Any] = {"model": model, "max_tokens": 1, "prompt": "Hello"}
    path = "/v1/completions"
    if isinstance(new.engine, PredictorSettings):
        asked, path = {"model": model, "input": example_input(new.engine.task)}, endpoint_of(new.engine.task).path
    elif check is not None:
        messages = [{"role": "user", "content": check.prompt}]
        asked = {"model": model, "max_tokens": check.max_new_tokens, "temperature": 0, "messages": messages}
        path = "/v1/chat/completions"
    status, body = app.ask(new.application, path, json.dumps(asked).encode())
    if status != 200:
        raise QualityError(f"{model}: the new version answered its first question with {status}: {body[:300]!r}")
    text = body.decode("utf-8", "replace")
    if check is not None and check.contains.lower() not in text.lower():
        raise QualityError(f"{model}: the new version's answer to {check.prompt!r} does not contain {check.contains!r}")


def attempt(change: Callable[[], str]) -> tuple[bool, str]:
    """Makes a change; returns whether it succeeded, and a message. Catches every error: the service must continue."""
    try:
        return True, change()
    except RayloomError as error:
        message = str(error)
    except Exception as error:  # noqa: BLE001 (such as the store's, or Ray's)
        message = f"{type(error).__name__}: {error}"
    say(f"not changed: {message}")
    return False, message


def _shared(
    running: list[tuple[Version, float]] | None, new: Version | None, share: float
) -> list[tuple[Version, float]]:
    if new is None:
        assert running is not None
        return running
    if running is None or share >= 1:
        return [(new, 1.0)]
    return [(running[0][0], 1 - share), (new, share)]


def _description(fresh: Mapping[str, Version], share: float) -> str:
    if not fresh:
        return "nothing to start anew"
    which = ", ".join(f"{name} is {v.engine.artifact_name}@{v.engine.artifact_version}" for name, v in fresh.items())
    return which if share >= 1 else f"{which}, on trial with {share:.0%} of the requests"
