"""The service on Ray Serve: one application for each model, and one for the gateway that all requests enter by.

Models are applications of their own so that each can be added, replaced or removed while the others serve. The gateway
reaches their replicas through Serve's handles, which queue, balance and count the load that autoscaling follows.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.schema import ApplicationStatus, ReplicaState

from rayloom.serve.asgi_call import Application, Headers
from rayloom.serve.engine import EngineSettings
from rayloom.serve.gateway import Gateway
from rayloom.serve.replica import EngineReplica
from rayloom.specs.serve import Autoscaling, ServeSpec

ENGINE = "engine"
GATEWAY = "gateway"
MAX_CONNECTIONS = 4096
"""Requests that one gateway replica holds at once; how many a model takes is the model's own limit."""
# The gateway only waits and passes on, so the hop between Serve's thread and the application's is saved.
_ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
_FAILED = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)


@dataclass(frozen=True)
class ReplicaBackend:
    """Asks the replicas of one model's application."""

    handle: Any

    async def ask(self, path: str, headers: Headers, body: bytes) -> AsyncIterator[bytes]:
        answer = self.handle.http.remote(path, headers, body)
        try:
            async for frame in answer:
                yield frame
        finally:
            answer.cancel()


class GatewayReplica:
    """The deployment around the gateway."""

    def __init__(self, applications: Mapping[str, str]) -> None:
        self._gateway = Gateway({model: ReplicaBackend(_handle(name)) for model, name in applications.items()})

    def __serve_build_asgi_app__(self) -> Application:
        return self._gateway


def _handle(application: str) -> Any:
    handle = serve.get_deployment_handle(ENGINE, app_name=application)
    # Frames are bytes already; by value they go over one connection instead of through the object store.
    return handle.options(
        stream=True, _by_reference=False, request_serialization="pickle", response_serialization="noop"
    )


def start_serve(host: str, port: int) -> bool:
    """Starts Ray Serve on the connected cluster; False where it ran already, with whatever address it has."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    was_running = is_serve_running()
    if not was_running:
        serve.start(http_options={"host": host, "port": port})
    return not was_running


def is_serve_running() -> bool:
    try:
        return bool(serve.status().proxies)
    except (RayError, serve.exceptions.RayServeException):
        return False


def application_name(spec: ServeSpec, model: str) -> str:
    return f"{spec.name}.{model}"


def deploy(spec: ServeSpec, engines: Sequence[EngineSettings]) -> None:
    """Asks Serve for every model and the gateway, and returns at once; `progress_of` says how far they are."""
    applications = {engine.served.name: application_name(spec, engine.served.name) for engine in engines}
    targets = [
        serve.RunTarget(_model_application(engine), name=applications[engine.served.name], route_prefix=None)
        for engine in engines
    ]
    gateway = serve.deployment(
        serve.ingress()(GatewayReplica),
        name=GATEWAY,
        max_ongoing_requests=MAX_CONNECTIONS,
        graceful_shutdown_wait_loop_s=0.2,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": _ONE_LOOP}},
    )
    targets.append(serve.RunTarget(gateway.bind(applications), name=spec.name, route_prefix="/"))
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _model_application(engine: EngineSettings) -> serve.Application:
    resources = engine.served.engine
    bundle: dict[str, float] = {"CPU": resources.cpus_per_replica}
    bundles = [bundle | {"GPU": 1}] * resources.gpus_per_replica if resources.gpus_per_replica else [bundle]
    deployment = serve.deployment(
        EngineReplica,
        name=ENGINE,
        # The replica's own process only talks; what computes is counted by the bundles.
        ray_actor_options={"num_cpus": 0},
        placement_group_bundles=bundles,
        max_constructor_retry_count=1,
        health_check_period_s=2,
        graceful_shutdown_wait_loop_s=0.2,
        **_scaling(engine.served.autoscaling),
    )
    return deployment.bind(engine)


def _scaling(autoscaling: Autoscaling) -> dict[str, Any]:
    return {
        "max_ongoing_requests": autoscaling.max_ongoing_requests,
        "autoscaling_config": {
            "min_replicas": autoscaling.min_replicas,
            "initial_replicas": autoscaling.min_replicas,
            "max_replicas": autoscaling.max_replicas,
            "target_ongoing_requests": autoscaling.target_ongoing_requests,
            "upscale_delay_s": autoscaling.upscale_delay_seconds,
            "downscale_delay_s": autoscaling.downscale_delay_seconds,
            # Serve's own ten and thirty seconds would answer a burst after it is over.
            "metrics_interval_s": 1,
            "look_back_period_s": max(2.0, min(30.0, autoscaling.upscale_delay_seconds)),
        },
    }


@dataclass(frozen=True)
class Progress:
    """How far the service is."""

    is_ready: bool
    replicas: dict[str, int]
    """Running replicas of each model."""
    failures: dict[str, str]
    """What Serve says of each model (or the gateway) that cannot start."""


def progress_of(spec: ServeSpec) -> Progress:
    names = {application_name(spec, model.name): model.name for model in spec.models} | {spec.name: GATEWAY}
    applications = serve.status().applications
    known = {names[name]: overview for name, overview in applications.items() if name in names}
    running = {name: overview.status == ApplicationStatus.RUNNING for name, overview in known.items()}
    return Progress(
        is_ready=len(known) == len(names) and all(running.values()),
        replicas={
            name: sum(d.replica_states.get(ReplicaState.RUNNING, 0) for d in overview.deployments.values())
            for name, overview in known.items()
            if name != GATEWAY
        },
        failures={name: _said(overview) for name, overview in known.items() if overview.status in _FAILED},
    )


def _said(overview: Any) -> str:
    return "\n".join([overview.message, *(deployment.message for deployment in overview.deployments.values())])


def remove(spec: ServeSpec, *, with_serve: bool) -> None:
    """Stops the gateway, then the models; `with_serve` also stops Ray Serve itself."""
    if with_serve:
        serve.shutdown()
        return
    serve.delete(spec.name)
    for model in spec.models:
        serve.delete(application_name(spec, model.name))
