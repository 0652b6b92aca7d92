"""The Ray Serve applications of a service: one for each model, and one for the gateway that receives all requests.

Each model has its own application, so that it can be added, replaced or removed while the others serve. The gateway
calls replicas by Serve's handles, which queue requests, balance them, and report the load for autoscaling.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import ApplicationStatus, ReplicaState

from rayloom.serve.gateway.deployment import ENGINE, GatewaySettings, ListeningGateway, ProxiedGateway
from rayloom.serve.gateway.direct_replica import DirectReplica
from rayloom.serve.replicas.engine_internals import ONE_LOOP, PREFIX_ROUTER, delete_later, with_same_code
from rayloom.serve.replicas.engine_replica import EngineReplica
from rayloom.serve.replicas.engine_settings import EngineSettings, PredictorSettings, ReplicaSettings
from rayloom.serve.replicas.predictor_replica import PredictorReplica
from rayloom.serve.transport.asgi_call import DRAIN_SECONDS, read_head
from rayloom.specs.serve import Autoscaling

GATEWAY = "gateway"
KEPT_CHARACTERS = 4_000_000
"""Characters of request prefixes that the prefix router keeps; beyond that it evicts the oldest."""
ASK_SECONDS = 2.0
MAX_CONNECTIONS = 4096
"""Concurrent requests of a gateway behind proxies; each model has its own, lower limit."""
# Rayloom has its own access log; Serve's would have three lines for each request.
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


def start_serve() -> bool:
    """Starts Ray Serve without proxies on the connected cluster; False if it was running already."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    was_running = is_serve_running()
    if not was_running:
        serve.start(proxy_location="Disabled", logging_config=_QUIET)
    return not was_running


def is_serve_running() -> bool:
    try:
        status = serve.status()
        return bool(status.proxies or status.applications)
    except (RayError, serve.exceptions.RayServeException):
        return False


def deploy_models(
    models: Mapping[str, ReplicaSettings], num_gateways: int, drain_seconds: float = DRAIN_SECONDS
) -> None:
    """Deploys an application for each model, by application name, without waiting; see `progress_of`."""
    targets = [
        serve.RunTarget(model_application(model, num_gateways, drain_seconds), name=name, route_prefix=None)
        for name, model in models.items()
    ]
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def deploy_direct(name: str, engine: EngineSettings, gateway: GatewaySettings, host: str, port: int) -> None:
    """Deploys replicas that listen on the service's port themselves (`profile: direct`), without waiting."""
    deployment = with_same_code(
        _deployment(DirectReplica, engine, DRAIN_SECONDS), num_replicas=engine.served.autoscaling.min_replicas
    )
    target = serve.RunTarget(deployment.bind(engine, gateway, host, port), name=name, route_prefix=None)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def deploy_gateway(settings: GatewaySettings, routes: Mapping[str, Any], host: str, port: int) -> None:
    """Deploys the gateway with these routes, without waiting. If it is running, only its routes change, without a gap.

    It runs on the node of the caller, whose address is the one that is printed, or on several nodes.
    """
    here = {f"node:{ray.util.get_node_ip_address()}": 0.001}
    if settings.on_several_nodes:
        deployment = _gateway(ListeningGateway, settings, routes, {"num_cpus": 0}, max_replicas_per_node=1)
    else:
        deployment = _gateway(ListeningGateway, settings, routes, {"num_cpus": 0, "resources": here})
    target = serve.RunTarget(deployment.bind(settings, host, port), name=settings.service, route_prefix=None)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def gateway_application(settings: GatewaySettings, routes: Mapping[str, Any], num_cpus: float) -> serve.Application:
    """The gateway behind Serve's proxies. `num_cpus`: if above 0, it cannot run on a head node without CPUs."""
    return _gateway(serve.ingress()(ProxiedGateway), settings, routes, {"num_cpus": num_cpus}).bind(settings)


def _gateway(
    replica: type, settings: GatewaySettings, routes: Mapping[str, Any], resources: Mapping[str, Any], **options: Any
) -> serve.Deployment:
    deployment = serve.deployment(
        replica,
        name=GATEWAY,
        num_replicas=settings.num_gateways,
        user_config={"models": dict(routes)},
        max_ongoing_requests=MAX_CONNECTIONS,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=_QUIET,
        ray_actor_options={**resources, "runtime_env": {"env_vars": ONE_LOOP}},
    )
    return with_same_code(deployment, **options)


def model_application(
    model: ReplicaSettings, num_gateways: int, drain_seconds: float = DRAIN_SECONDS
) -> serve.Application:
    scaling = model.served.autoscaling
    replica = PredictorReplica if isinstance(model, PredictorSettings) else EngineReplica
    queue = scaling.max_queued_requests // num_gateways
    deployment = _deployment(replica, model, drain_seconds)
    return with_same_code(deployment, max_queued_requests=queue, **_scaling(scaling)).bind(model)


def _deployment(replica: type, model: ReplicaSettings, drain_seconds: float) -> serve.Deployment:
    resources = model.served.resources
    bundle: dict[str, float] = {"CPU": resources.cpus_per_replica}
    bundles = [bundle | {"GPU": 1}] * resources.gpus_per_replica if resources.gpus_per_replica else [bundle]
    num_own_gpus = resources.gpus_per_replica if isinstance(model, PredictorSettings) else 0
    return serve.deployment(
        replica,
        name=ENGINE,
        # The replica's own process only handles requests; its bundles reserve the resources of the engine's workers.
        ray_actor_options={"num_cpus": 0, "num_gpus": num_own_gpus, "runtime_env": {"env_vars": ONE_LOOP}},
        placement_group_bundles=bundles,
        placement_group_strategy=_placement(model),
        max_constructor_retry_count=1,
        health_check_period_s=2,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=drain_seconds,
        logging_config=_QUIET,
    )


def _placement(model: ReplicaSettings) -> str:
    """The placement strategy: all GPUs on one node, unless there are pipeline stages, which can be on several."""
    is_staged = isinstance(model, EngineSettings) and model.served.engine.pipeline_stages > 1
    return "PACK" if is_staged else "STRICT_PACK"


def _scaling(autoscaling: Autoscaling) -> dict[str, Any]:
    router: dict[str, Any] = {}
    if autoscaling.routing == "prefix":
        limits = {
            "imbalanced_threshold": autoscaling.max_imbalance_requests,
            "do_eviction": True,
            "eviction_threshold_chars": KEPT_CHARACTERS,
        }
        router["request_router_config"] = RequestRouterConfig(
            request_router_class=PREFIX_ROUTER, request_router_kwargs=limits
        )
    return router | {
        "max_ongoing_requests": autoscaling.max_ongoing_requests,
        "autoscaling_config": {
            "min_replicas": autoscaling.min_replicas,
            # A model that can scale to zero starts with one replica too, so that errors show at the start.
            "initial_replicas": max(1, autoscaling.min_replicas),
            "max_replicas": autoscaling.max_replicas,
            "target_ongoing_requests": autoscaling.target_ongoing_requests,
            "upscale_delay_s": autoscaling.upscale_delay_seconds,
            "downscale_delay_s": autoscaling.downscale_delay_seconds,
            # With Serve's defaults of 10 and 30 s, replicas would start after a burst is over.
            "metrics_interval_s": 1,
            "look_back_period_s": max(2.0, min(30.0, autoscaling.upscale_delay_seconds)),
        },
    }


@dataclass(frozen=True)
class Progress:
    """The state of one application's deployment."""

    is_running: bool
    num_replicas: int
    failure: str | None
    """Serve's message about an application that cannot start."""


def progress_of(applications: Iterable[str]) -> dict[str, Progress]:
    """The progress of each application that Serve knows."""
    known = serve.status().applications
    return {name: _progress(known[name]) for name in applications if name in known}


def _progress(overview: Any) -> Progress:
    running = sum(d.replica_states.get(ReplicaState.RUNNING, 0) for d in overview.deployments.values())
    message = "\n".join([overview.message, *(deployment.message for deployment in overview.deployments.values())])
    failed = overview.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
    return Progress(overview.status == ApplicationStatus.RUNNING, running, message if failed else None)


def remove(applications: Iterable[str]) -> None:
    """Deletes applications; each replica first finishes its requests, for up to DRAIN_SECONDS."""
    for name in applications:
        serve.delete(name)


def retire(models: Mapping[str, ReplicaSettings], num_gateways: int, drain_seconds: float) -> None:
    """Deletes applications that get no new requests, without waiting; their requests have `drain_seconds` to finish."""
    deploy_models(models, num_gateways, drain_seconds)
    for name in models:
        delete_later(name)


def ask(application: str, path: str, body: bytes) -> tuple[int, bytes]:
    """Sends one request to an application directly, without the gateway; returns status and body."""
    handle = serve.get_deployment_handle(ENGINE, app_name=application).options(stream=True)
    head, *frames = handle.http.remote(path, [(b"content-type", b"application/json")], body)
    return read_head(head)[0], b"".join(frames)


def start_times(application: str) -> dict[str, float | None] | None:
    """StartTimes of a replica of a model as plain values, asked of the replica; None if it does not say soon."""
    handle = serve.get_deployment_handle(ENGINE, app_name=application)
    try:
        found: dict[str, float | None] = handle.start_times.remote().result(timeout_s=ASK_SECONDS)
        return found
    except (TimeoutError, RayError, serve.exceptions.RayServeException):
        return None


def stop_serve() -> None:
    serve.shutdown()


def num_nodes() -> int:
    """The nodes of the cluster that are alive."""
    return sum(node["Alive"] for node in ray.nodes())


def metrics_addresses() -> list[str]:
    """The Prometheus endpoint of each node of the cluster, which has the services' metrics too."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes]
