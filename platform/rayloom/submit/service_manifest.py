"""A serve job as Kubernetes objects for KubeRay: a ConfigMap with its file, and a RayService that keeps it running.

KubeRay applies `serveConfigV2`; in the pods, Rayloom builds its applications from the job file. The ConfigMap's name
contains a digest of its content, so a changed job file gives a new cluster. KubeRay starts it beside the old one and
switches the requests to it when it is ready.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from rayloom.errors import InputError
from rayloom.serve.replicas.engine_settings import application_name
from rayloom.specs.base import Bundle, references
from rayloom.specs.serve import ServeSpec
from rayloom.submit.pods import (
    JOB_FOLDER,
    KubernetesChoices,
    Mount,
    PodParts,
    WorkerGroup,
    check_choices,
    cluster,
    groups_of,
    job_files,
    metadata_of,
    plain_environment,
)

KEYS_FOLDER = "/rayloom/keys"
OLD_CLUSTER_SECONDS = 120
"""How long the old cluster may finish its requests after an upgrade."""


def service_manifest(
    spec: ServeSpec, files: Mapping[str, str], entry: str, choices: KubernetesChoices
) -> list[dict[str, Any]]:
    """The objects to apply, in order. Raises InputError if the service would not work, or not securely, there."""
    check_choices(files, choices)
    _check_spec(spec)
    metadata = metadata_of(spec, choices)
    config, mount = job_files(f"{metadata['name']}-{_digest(files)}", files, metadata)
    mounts = [mount]
    if choices.api_keys_secret is not None:
        secret = {"name": "keys", "secret": {"secretName": choices.api_keys_secret, "defaultMode": 0o440}}
        mounts.append(Mount(secret, KEYS_FOLDER))
    port = {"name": "serve", "containerPort": spec.port}
    # If a pod names one port of the head, KubeRay adds no defaults, so all that it needs must be named.
    known = {"gcs-server": 6379, "dashboard": 8265, "metrics": 8080}
    head_ports = (*({"name": name, "containerPort": number} for name, number in known.items()), port)
    parts = PodParts(_environment(), tuple(mounts), head_ports, worker_ports=(port,))
    service = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata,
        "spec": {
            "serveConfigV2": yaml.safe_dump(serve_config(spec, f"{JOB_FOLDER}/{entry}", choices), sort_keys=False),
            "upgradeStrategy": {"type": "NewCluster"},
            "rayClusterDeletionDelaySeconds": OLD_CLUSTER_SECONDS,
            "excludeHeadPodFromServeSvc": True,
            "rayClusterConfig": cluster(_groups(spec), parts, choices),
        },
    }
    return [config, service]


def serve_config(spec: ServeSpec, file: str, choices: KubernetesChoices) -> dict[str, Any]:
    """Ray Serve's config of the service: an application for each model, and one for the gateway."""
    keys_folder = KEYS_FOLDER if choices.api_keys_secret is not None else None
    models = [
        {
            "name": application_name(spec.name, served.name),
            "route_prefix": None,
            "import_path": "rayloom.serve.declarative:model",
            "args": {"job": file, "model": served.name},
        }
        for served in spec.served
    ]
    gateway = {
        "name": spec.name,
        "route_prefix": "/",
        "import_path": "rayloom.serve.declarative:gateway",
        "args": {"job": file, "keys_folder": keys_folder},
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": spec.port},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [*models, gateway],
    }


def _check_spec(spec: ServeSpec) -> None:
    if not spec.doors.keys_required:
        fix = "Set doors.keys_required: true, and make keys with `rayloom keys create`, or name a Secret by --api-keys."
        raise InputError(
            "Other pods of the Kubernetes cluster could use this service, because it requires no API keys", fix=fix
        )
    if spec.is_direct:
        fix = "Set profile: full."
        raise InputError(
            "With profile: direct the engine listens itself, and KubeRay watches Ray Serve's proxies only", fix=fix
        )
    elsewhere = [reference.text for reference in references(spec) if not reference.text.startswith("artifact:")]
    if elsewhere:
        fix = "Import it into the store first, and name it as artifact:NAME."
        raise InputError("A service on Kubernetes takes its models from the store", where=elsewhere[0], fix=fix)


def _groups(spec: ServeSpec) -> list[WorkerGroup]:
    """One group for each size of replica, with the largest number of replicas; the smallest also runs the gateway's."""
    most: Counter[Bundle] = Counter()
    for served in spec.served:
        most[served.bundle] += served.autoscaling.max_replicas
    sizes = sorted(most, key=lambda bundle: (bundle.gpus, bundle.cpus))
    most[sizes[0]] = max(most[sizes[0]], spec.gateway_replicas)
    return groups_of(most)


def _environment() -> tuple[dict[str, Any], ...]:
    plain = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        # On a busy node a proxy needs more than Serve's default of five seconds to start, and would be killed.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }
    return tuple(plain_environment(plain))


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:10]
