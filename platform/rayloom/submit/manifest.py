"""A job file as Kubernetes objects for KubeRay: a ConfigMap with the job's files, and a RayJob that runs them.

Nothing secret stands in them: the cluster's token is made by KubeRay, and everything else that is secret is named as a
Kubernetes Secret. Every attempt of a job works on the same store, where a result is published once and last, so a retry
continues where the attempt before it was and never writes twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayloom.errors import InputError
from rayloom.specs.base import JobSpec
from rayloom.submit.submission import STOP_GRACE_SECONDS
from rayloom.submit.wants import DRIVER_CPUS, Bundle, wanted

JOB_FOLDER = "/rayloom/job"
STORE_VOLUME = "store"
MOST_CONFIG_MAP_BYTES = 1_000_000
"""Kubernetes takes at most 1 MiB."""
KEPT_SECONDS = 3600
SPOT_PRIORITY, ON_DEMAND_PRIORITY = 10, 0


@dataclass(frozen=True)
class KubernetesChoices:
    """What a job file does not say and Kubernetes must know."""

    image: str
    store: str
    ray_version: str
    namespace: str | None = None
    store_claim: str | None = None
    """A PersistentVolumeClaim (ReadWriteMany) mounted at the store's path."""
    secrets: tuple[str, ...] = ()
    """Names of Secrets whose keys become environment variables, such as one with HF_TOKEN."""
    num_retries: int = 2
    worker_memory_bytes: int = 8 << 30
    spot_selector: tuple[str, str] | None = None
    """Node label of spot machines; workers then prefer them and fall back to others."""
    gpu_resource: str = "nvidia.com/gpu"


def manifest(
    spec: JobSpec, specs: Sequence[JobSpec], files: Mapping[str, str], entry: str, choices: KubernetesChoices
) -> list[dict[str, Any]]:
    """The objects to apply, in order.

    `specs`: the jobs to be run (a pipeline's stages, else the spec itself); `files`: their texts by relative path, of
    which `entry` is run. Raises InputError where they do not fit into a ConfigMap, or choices contradict each other.
    """
    if sum(len(text.encode()) for text in files.values()) > MOST_CONFIG_MAP_BYTES:
        raise InputError("The job's files are too large for a ConfigMap", fix="Import data into the store first.")
    if choices.store_claim is not None and not choices.store.startswith("/"):
        fix = "Give --store as the path at which the claim is to be mounted."
        raise InputError("A volume claim needs a store that is a path", where=choices.store, fix=fix)
    name = f"rayloom-{spec.name.replace('.', '-').replace('_', '-')}"[:40].rstrip("-")
    metadata: dict[str, Any] = {
        "name": name,
        "labels": {"app.kubernetes.io/name": "rayloom", "rayloom/kind": spec.kind},
    }
    if choices.namespace:
        metadata["namespace"] = choices.namespace
    keys = {path: path.replace("/", "__") for path in files}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "name": f"{name}-files"},
        "data": {keys[path]: text for path, text in sorted(files.items())},
    }
    items = [{"key": keys[path], "path": path} for path in sorted(files)]
    volume = {"name": "job", "configMap": {"name": f"{name}-files", "items": items}}
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": f"python -m rayloom run {JOB_FOLDER}/{entry}",
            "entrypointNumCpus": DRIVER_CPUS,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "backoffLimit": choices.num_retries,
            "rayClusterSpec": _cluster(specs, volume, choices),
        },
    }
    return [config, job]


def _cluster(specs: Sequence[JobSpec], volume: dict[str, Any], choices: KubernetesChoices) -> dict[str, Any]:
    return {
        "rayVersion": choices.ray_version,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 120, "upscalingMode": "Default"},
        "headGroupSpec": {
            # Nothing runs beside the cluster's own services, so that no job can starve them.
            "rayStartParams": {"num-cpus": "0"},
            "template": _pod(Bundle(2, 0), 8 << 30, volume, choices, "ray-head"),
        },
        "workerGroupSpecs": _groups(specs, volume, choices),
    }


def _groups(specs: Sequence[JobSpec], volume: dict[str, Any], choices: KubernetesChoices) -> list[dict[str, Any]]:
    """One group for each size of worker, and its twin on spot machines; a worker carries one bundle and a driver."""
    most: Counter[Bundle] = Counter()
    for spec in specs:
        most |= Counter(wanted(spec) or [Bundle(1, 0)])
    groups = []
    for bundle, count in sorted(most.items(), key=lambda item: (item[0].gpus, item[0].cpus)):
        name = f"cpu{bundle.cpus:g}" + (f"-gpu{bundle.gpus:g}" if bundle.gpus else "")
        sized = Bundle(bundle.cpus + DRIVER_CPUS, bundle.gpus)
        group = {
            "groupName": name,
            "minReplicas": 0,
            "maxReplicas": count,
            "replicas": 0,
            "priority": ON_DEMAND_PRIORITY,
            "labels": {"ray.io/market-type": "on-demand"},
            "rayStartParams": {"num-cpus": f"{sized.cpus:g}"},
            "template": _pod(sized, choices.worker_memory_bytes, volume, choices, "ray-worker"),
        }
        if choices.spot_selector is not None:
            groups.append(_spot_twin(group, choices.spot_selector))
        groups.append(group)
    return groups


def _spot_twin(group: dict[str, Any], selector: tuple[str, str]) -> dict[str, Any]:
    """The same workers on machines that may be taken away, asked for first."""
    key, value = selector
    template = group["template"]
    tolerations = [{"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}]
    pod = {**template["spec"], "nodeSelector": {key: value}, "tolerations": tolerations}
    return {
        **group,
        "groupName": f"{group['groupName']}-spot",
        "priority": SPOT_PRIORITY,
        "labels": {"ray.io/market-type": "spot"},
        "template": {**template, "spec": pod},
    }


def _pod(
    bundle: Bundle, memory_bytes: int, volume: dict[str, Any], choices: KubernetesChoices, container: str
) -> dict[str, Any]:
    resources = {"cpu": f"{bundle.cpus:g}", "memory": f"{memory_bytes // (1 << 20)}Mi"}
    if bundle.gpus:
        resources[choices.gpu_resource] = f"{bundle.gpus:g}"
    mounts = [{"name": "job", "mountPath": JOB_FOLDER, "readOnly": True}, {"name": "shm", "mountPath": "/dev/shm"}]
    shared = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{memory_bytes // 4 // (1 << 20)}Mi"}}
    volumes = [volume, shared]
    if choices.store_claim is not None:
        mounts.append({"name": STORE_VOLUME, "mountPath": choices.store})
        volumes.append({"name": STORE_VOLUME, "persistentVolumeClaim": {"claimName": choices.store_claim}})
    return {
        "spec": {
            "terminationGracePeriodSeconds": STOP_GRACE_SECONDS,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
            "containers": [
                {
                    "name": container,
                    "image": choices.image,
                    "env": _environment(choices),
                    "envFrom": [{"secretRef": {"name": name}} for name in choices.secrets],
                    "resources": {"requests": dict(resources), "limits": dict(resources)},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": mounts,
                }
            ],
            "volumes": volumes,
        }
    }


def _environment(choices: KubernetesChoices) -> list[dict[str, Any]]:
    plain = {
        "RAYLOOM_STORE": choices.store,
        "RAYLOOM_ON_CLUSTER": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_SECONDS),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
    }
    named: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    # Each attempt gets a cluster of its own, whose name tells the attempts' logs apart.
    attempt = {"fieldRef": {"fieldPath": "metadata.labels['ray.io/cluster']"}}
    return [*named, {"name": "RAYLOOM_ATTEMPT", "valueFrom": attempt}]
