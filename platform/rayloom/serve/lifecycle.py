"""Start and stop of a service: checks beforehand, waits until all models answer, and leaves no process behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rayloom.artifacts.store import Artifact, Store
from rayloom.engine_errors import reported_cause
from rayloom.errors import ResourceError
from rayloom.observe.memory import available_bytes
from rayloom.observe.ports import check_port, is_port_free
from rayloom.observe.progress import progress, say
from rayloom.observe.ray_session import Session
from rayloom.serve import applications as app
from rayloom.serve.found_engines import slower_than_original
from rayloom.serve.gateway.deployment import GatewaySettings
from rayloom.serve.replicas.capacity import ModelShape, replica_bytes, replicas_that_fit, serving_problems
from rayloom.serve.replicas.chat_template import template_note, template_problem
from rayloom.serve.replicas.engine_internals import (
    PROCESS_TITLES,
    engine_arguments_known,
    served_architectures,
    tool_parsers,
)
from rayloom.serve.replicas.engine_settings import (
    EngineSettings,
    PredictorSettings,
    ReplicaSettings,
    application_name,
    draft_of,
    predictor_settings,
    settings,
    shape_of,
)
from rayloom.serve.replicas.predictor_requests import endpoint_of
from rayloom.specs.serve import ServedModel, ServeSpec

POLL_SECONDS = 0.5
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Version:
    """One version of a model, which runs as a Ray Serve application of its own."""

    application: str
    engine: ReplicaSettings


@dataclass
class Service:
    """A running service."""

    spec: ServeSpec
    store: Store
    url: str
    is_embedded: bool
    started_serve: bool
    versions: dict[str, list[tuple[Version, float]]] = field(default_factory=dict)
    """The versions of each model, with their shares of the requests."""
    seconds_to_start: float = 0.0
    start_times: dict[str, dict[str, float | None] | None] = field(default_factory=dict)
    """StartTimes of a first replica, as plain values, by application name."""

    def replicas_by_version(self) -> dict[str, int]:
        """The number of running replicas of each version, by application name."""
        names = [version.application for running in self.versions.values() for version, _ in running]
        return dict.fromkeys(names, 0) | {name: state.num_replicas for name, state in app.progress_of(names).items()}

    def replicas(self) -> dict[str, int]:
        """The number of running replicas of each model."""
        now = self.replicas_by_version()
        return {model: sum(now[v.application] for v, _ in running) for model, running in self.versions.items()}

    def described(self) -> dict[str, list[dict[str, Any]]]:
        """The versions of each model with artifact, share, replicas, and phases of a start, for people."""
        now = self.replicas_by_version()
        return {
            model: [
                {
                    "artifact": f"{version.engine.artifact_name}@{version.engine.artifact_version}",
                    "share": share,
                    "replicas": now[version.application],
                    "start": self._start_of(version, now[version.application]),
                }
                for version, share in running
            ]
            for model, running in self.versions.items()
        }

    def _start_of(self, version: Version, num_replicas: int) -> dict[str, float | None] | None:
        """Asked once, of one that has replicas, since asking one that sleeps would wake it."""
        name = version.application
        if num_replicas and name not in self.start_times and isinstance(version.engine, EngineSettings):
            self.start_times[name] = app.start_times(name)
        return self.start_times.get(name)

    def applications(self) -> list[str]:
        """The names of all applications, the gateway's first: it is stopped before the models."""
        models = [v.application for running in self.versions.values() for v, _ in running]
        return models if self.spec.is_direct else [self.spec.name, *models]

    def route(self) -> None:
        """Gives the gateway the routes of `versions`."""
        settings = gateway_settings(self.spec, self.store)
        app.deploy_gateway(settings, routes_to(self.versions), self.spec.host, self.spec.port)

    def stop(self) -> None:
        """Stops the service. Raises ResourceError if a process lives or the port is in use after STOP_SECONDS."""
        if not self.started_serve:
            app.remove(self.applications())
            return
        app.stop_serve()
        until = time.monotonic() + STOP_SECONDS
        while self.is_embedded and (service_processes() or not is_port_free(self.spec.host, self.spec.port)):
            if time.monotonic() > until:
                left = ", ".join(service_processes()) or f"port {self.spec.port}"
                raise ResourceError("The service did not stop", where=left, fix="End these processes by hand.")
            time.sleep(0.1)


def routes_to(versions: Mapping[str, list[tuple[Version, float]]]) -> dict[str, Any]:
    """The gateway's routes: each model's versions and their shares."""
    routes: dict[str, Any] = {}
    for model, running in versions.items():
        digests = sorted({digest for version, _ in running for digest in version.engine.base_digests})
        tasks = [version.engine.task for version, _ in running if isinstance(version.engine, PredictorSettings)]
        routes[model] = {
            "shares": [[v.application, share] for v, share in running],
            "base_digests": digests,
            "path": endpoint_of(tasks[-1]).path if tasks else None,
        }
    return routes


def shapes(spec: ServeSpec, parents: Mapping[str, Artifact]) -> list[tuple[ServedModel, ModelShape]]:
    """Each model of the spec with its shape, which includes its draft model's."""
    return [(served, shape_of(parents, index, served.engine)) for index, served in enumerate(spec.models)]


def check_models(spec: ServeSpec, parents: Mapping[str, Artifact]) -> None:
    """Raises ResourceError if vLLM would not serve a model with these settings, or slower than its original.

    Says which model gets prompts that are not those of its training.
    """
    reasons = [
        f"{served.name}: {problem}"
        for served, shape in shapes(spec, parents)
        for problem in serving_problems(
            shape, served.engine, served_architectures(), tool_parsers(), engine_arguments_known()
        )
    ]
    for index, served in enumerate(spec.models):
        found = (template_problem(served), slower_than_original(served, parents[f"models.{index}.model"]))
        reasons += [f"{served.name}: {problem}" for problem in found if problem is not None]
    if reasons:
        raise ResourceError("; ".join(reasons))
    for index, served in enumerate(spec.models):
        if (note := template_note(served, parents[f"models.{index}.model"])) is not None:
            say(f"warning: {note}")


def check_before(spec: ServeSpec, parents: Mapping[str, Artifact], *, num_cores: int | None) -> None:
    """Raises ResourceError for anything that is certain to fail, before anything starts.

    `num_cores`: of this machine, if the service will run on it; None on another cluster.
    """
    check_models(spec, parents)
    if num_cores is None:
        return
    check_port(spec.host, spec.port)
    available = available_bytes()
    for served, shape in shapes(spec, parents):
        each = replica_bytes(shape, served.engine)
        wanted = served.autoscaling.max_replicas
        fit = replicas_that_fit(each, served.engine.cpus_per_replica, available, num_cores)
        if fit < wanted:
            takes = f"{each / 1e9:.1f} GB and {served.engine.cpus_per_replica} cores"
            room = f"{available / 1e9:.1f} GB and {num_cores} cores"
            what = f"{served.name} may grow to {wanted} replicas of {takes} each, but {fit} fit into {room}"
            fix = "Lower engine.kv_cache.size_bytes, engine.cpus_per_replica or autoscaling.max_replicas."
            raise ResourceError(what, fix=fix)


def start(
    spec: ServeSpec,
    parents: Mapping[str, Artifact],
    store: Store,
    session: Session,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Service | None:
    """Starts every model and returns when all answer; None if `is_stopped` returned True before.

    Raises ResourceError with the engine's own error if a model does not start.
    """
    began = time.monotonic()
    if spec.gateway_nodes == "several" and app.num_nodes() < spec.gateway_replicas:
        what = f"{spec.gateway_replicas} gateways on a node each need as many nodes, and there are {app.num_nodes()}"
        raise ResourceError(what, fix="Lower gateway_replicas, or run the service on a larger cluster (RAY_ADDRESS).")
    started_serve = app.start_serve()
    service = Service(spec, store, f"http://{spec.host}:{spec.port}", session.is_embedded, started_serve)
    try:
        service.versions = {name: [(made, 1.0)] for name, made in versions_of(spec, parents, store).items()}
        if spec.is_direct:
            first = service.versions[spec.models[0].name][0][0]
            assert isinstance(first.engine, EngineSettings)
            app.deploy_direct(first.application, first.engine, gateway_settings(spec, store), spec.host, spec.port)
        else:
            deploy([v for running in service.versions.values() for v, _ in running], spec)
            service.route()
        if not wait_until_running(service.applications(), is_stopped):
            service.stop()
            return None
    except BaseException:
        service.stop()
        raise
    service.seconds_to_start = time.monotonic() - began
    return service


def versions_of(
    spec: ServeSpec, parents: Mapping[str, Artifact], store: Store, generation: int = 1
) -> dict[str, Version]:
    """The version to run of each model and predictor, by name. `generation` distinguishes versions of one model."""
    doors, versions = spec.doors, dict[str, Version]()
    for index, served in enumerate(spec.models):
        artifact, draft = parents[f"models.{index}.model"], draft_of(parents, index)
        engine = settings(served, artifact, draft, store, doors.max_answer_tokens)
        versions[served.name] = Version(application_name(spec.name, served.name, generation), engine)
    for index, predictor in enumerate(spec.predictors):
        made = predictor_settings(predictor, index, parents, store, doors.max_answers_per_request)
        versions[predictor.name] = Version(application_name(spec.name, predictor.name, generation), made)
    return versions


def deploy(versions: Iterable[Version], spec: ServeSpec) -> None:
    app.deploy_models({v.application: v.engine for v in versions}, spec.gateway_replicas)


def wait_until_running(applications: list[str], is_stopped: Callable[[], bool] = lambda: False) -> bool:
    """Waits until all have started; False if `is_stopped` came first. Raises ResourceError with the engine's error."""
    with progress("starting", len(applications), "parts") as bar:
        while not is_stopped():
            now = app.progress_of(applications)
            for name, state in now.items():
                if state.failure is not None:
                    cause = reported_cause(state.failure) or state.failure.strip().splitlines()[-1]
                    fix = "Change the job file; the log has all that the engine said."
                    raise ResourceError(f"{name} did not start: {cause}", fix=fix)
            bar.advance(sum(state.is_running for state in now.values()) - bar.done)
            if len(now) == len(applications) and all(state.is_running for state in now.values()):
                return True
            time.sleep(POLL_SECONDS)
    return False


def access_log(spec: ServeSpec, store: Store) -> Path:
    """The file of a service's access log, on the gateway's node."""
    return store.log_directory / f"access-{spec.name}.jsonl"


def gateway_settings(spec: ServeSpec, store: Store) -> GatewaySettings:
    """The settings of a service's gateway."""
    return GatewaySettings(
        service=spec.name,
        store_uri=store.uri,
        doors=spec.doors,
        num_gateways=spec.num_gateways,
        access_log=str(access_log(spec, store)) if spec.logs.access else None,
        log_prompts=spec.logs.prompts,
        has_chat_page=spec.chat_page,
        may_sleep=frozenset(served.name for served in spec.served if served.autoscaling.min_replicas == 0),
        on_several_nodes=spec.gateway_nodes == "several",
        adapters={served.name: served.adapters for served in spec.models if served.adapters is not None},
    )


def service_processes() -> list[str]:
    """The engines, replicas, proxies and controllers among this process' descendants, each as `pid name`."""
    running = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline()) or process.name()
        except psutil.NoSuchProcess:
            continue
        if process.status() != psutil.STATUS_ZOMBIE and title.startswith(PROCESS_TITLES):
            running.append(f"{process.pid} {title[:60]}")
    return running
