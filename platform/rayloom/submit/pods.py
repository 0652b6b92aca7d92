"""The Kubernetes description of the Ray cluster of a job or service: worker groups by size, their spot groups, pods.

It contains no secret: KubeRay makes the cluster's token, and all other secrets are references to Kubernetes Secrets.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayloom.errors import InputError
from rayloom.specs.base import Bundle, JobSpec
from rayloom.specs.kubernetes import CacheVolume, NodeValues
from rayloom.submit.resource_requests import DRIVER_CPUS
from rayloom.submit.submission import STOP_GRACE_SECONDS

JOB_FOLDER = "/rayloom/job"
STORE_VOLUME = "store"
CACHE_FOLDER = "/rayloom/cache"
MOST_CONFIG_MAP_BYTES = 1_000_000
"""Kubernetes accepts at most 1 MiB."""
SPOT_PRIORITY, ON_DEMAND_PRIORITY = 10, 0


@dataclass(frozen=True)
class KubernetesChoices:
    """Settings for Kubernetes that a job file does not contain."""

    image: str
    store: str
    ray_version: str
    namespace: str | None = None
    store_claim: str | None = None
    """A PersistentVolumeClaim (ReadWriteMany) mounted at the store's path."""
    secrets: tuple[str, ...] = ()
    """Names of Secrets whose entries become environment variables, such as one with HF_TOKEN."""
    num_retries: int = 2
    worker_memory_bytes: int = 8 << 30
    spot_selector: tuple[str, str] | None = None
    """Node label of spot machines; workers prefer them and fall back to on-demand ones."""
    gpu_resource: str = "nvidia.com/gpu"
    api_keys_secret: str | None = None
    """Name of a Secret with the service's API keys, each under its holder's name."""
    nodes: NodeValues = field(default_factory=NodeValues)


@dataclass(frozen=True)
class Mount:
    """A volume and its mount path."""

    volume: Mapping[str, Any]
    path: str
    is_read_only: bool = True


@dataclass(frozen=True)
class PodParts:
    """The parts of a pod that differ between a job and a service."""

    environment: tuple[Mapping[str, Any], ...]
    mounts: tuple[Mount, ...]
    head_ports: tuple[Mapping[str, Any], ...] = ()
    worker_ports: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class WorkerGroup:
    """Pods of one size, and their largest number."""

    bundle: Bundle
    """All that runs in one pod."""
    most: int


def packed(bundles: Mapping[Bundle, int], nodes: NodeValues) -> Counter[Bundle]:
    """Pods for so many bundles of each size: those with GPUs share a pod up to a machine's GPUs."""
    pods: Counter[Bundle] = Counter()
    for bundle, count in bundles.items():
        each = min(count, max(1, int(nodes.gpus_per_node / bundle.gpus + 1e-9))) if bundle.gpus else 1
        pods[Bundle(each * bundle.cpus, math.ceil(each * bundle.gpus - 1e-9))] += -(-count // each)
    return pods


def groups_of(pods: Mapping[Bundle, int]) -> list[WorkerGroup]:
    """A group for each size, those without GPUs first."""
    return [WorkerGroup(size, pods[size]) for size in sorted(pods, key=lambda size: (size.gpus, size.cpus))]


def check_choices(files: Mapping[str, str], choices: KubernetesChoices) -> None:
    """Raises InputError if the files do not fit into a ConfigMap, or choices contradict each other."""
    if sum(len(text.encode()) for text in files.values()) > MOST_CONFIG_MAP_BYTES:
        raise InputError("The job's files are too large for a ConfigMap", fix="Import data into the store first.")
    if choices.store_claim is not None and not choices.store.startswith("/"):
        fix = "Give --store as the path at which the claim is to be mounted."
        raise InputError("A volume claim needs a store that is a path", where=choices.store, fix=fix)


def metadata_of(spec: JobSpec, choices: KubernetesChoices) -> dict[str, Any]:
    """Name, labels and namespace of the Kubernetes object that runs the spec."""
    name = f"rayloom-{spec.name.replace('.', '-').replace('_', '-')}"[:40].rstrip("-")
    labels = {"app.kubernetes.io/name": "rayloom", "rayloom/kind": spec.kind}
    nodes = choices.nodes
    if nodes.queue is not None:
        labels["kueue.x-k8s.io/queue-name"] = nodes.queue
        labels |= {"kueue.x-k8s.io/priority-class": nodes.priority_class} if nodes.priority_class else {}
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    return metadata | ({"namespace": choices.namespace} if choices.namespace else {})


def job_files(name: str, files: Mapping[str, str], metadata: Mapping[str, Any]) -> tuple[dict[str, Any], Mount]:
    """A ConfigMap with the job's files, and the mount that restores their relative paths."""
    keys = {path: path.replace("/", "__") for path in files}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "name": name},
        "data": {keys[path]: text for path, text in sorted(files.items())},
    }
    items = [{"key": keys[path], "path": path} for path in sorted(files)]
    return config, Mount({"name": "job", "configMap": {"name": name, "items": items}}, JOB_FOLDER)


def cluster(groups: list[WorkerGroup], parts: PodParts, choices: KubernetesChoices) -> dict[str, Any]:
    """A cluster spec whose autoscaler starts workers on demand, spot ones first; in a queue, all of them at once."""
    scaling = {"version": "v2", "idleTimeoutSeconds": 120, "upscalingMode": "Default"}
    is_queued = choices.nodes.queue is not None
    return {
        "rayVersion": choices.ray_version,
        "authOptions": {"mode": "token"},
        # Kueue admits a cluster with a fixed number of pods.
        "enableInTreeAutoscaling": not is_queued,
        **({} if is_queued else {"autoscalerOptions": scaling}),
        "headGroupSpec": {
            # The head offers no CPUs, so that no job can starve the cluster's own services.
            "rayStartParams": {"num-cpus": "0"},
            "template": _pod("ray-head", Bundle(2, 0), 8 << 30, parts, choices, parts.head_ports),
        },
        "workerGroupSpecs": [described for group in groups for described in _described(group, parts, choices)],
    }


def _described(group: WorkerGroup, parts: PodParts, choices: KubernetesChoices) -> list[dict[str, Any]]:
    """The group, preceded by its spot group if wanted; a pod has room for its bundle and a driver or gateway."""
    bundle, is_queued = group.bundle, choices.nodes.queue is not None
    sized = Bundle(bundle.cpus + DRIVER_CPUS, bundle.gpus)
    memory_bytes = choices.worker_memory_bytes
    if bundle.gpus:
        memory_bytes = max(memory_bytes, int(bundle.gpus * choices.nodes.memory_gib_per_gpu) << 30)
    template = _pod("ray-worker", sized, memory_bytes, parts, choices, parts.worker_ports)
    tolerations = _tolerations(bundle, choices)
    template["spec"] |= {"tolerations": tolerations} if tolerations else {}
    steady = {
        "groupName": f"cpu{bundle.cpus:g}" + (f"-gpu{bundle.gpus:g}" if bundle.gpus else ""),
        "minReplicas": group.most if is_queued else 0,
        "maxReplicas": group.most,
        "replicas": group.most if is_queued else 0,
        "priority": ON_DEMAND_PRIORITY,
        "labels": {"ray.io/market-type": "on-demand"},
        "rayStartParams": {"num-cpus": f"{sized.cpus:g}"},
        "template": template,
    }
    return [steady] if choices.spot_selector is None else [_spot_twin(steady, choices.spot_selector), steady]


def _tolerations(bundle: Bundle, choices: KubernetesChoices) -> list[dict[str, Any]]:
    """The taints of machines with GPUs, and those that were named."""
    found = [{"key": choices.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}] if bundle.gpus else []
    for taint in choices.nodes.tolerations:
        matches = {"operator": "Exists"} if taint.value is None else {"operator": "Equal", "value": taint.value}
        found.append({"key": taint.key, **matches, "effect": taint.effect})
    return found


def _spot_twin(group: dict[str, Any], selector: tuple[str, str]) -> dict[str, Any]:
    """The same group on spot machines (which may be preempted), with a higher priority."""
    key, value = selector
    template = group["template"]
    tolerations = [{"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}]
    tolerations += template["spec"].get("tolerations", [])
    pod = {**template["spec"], "nodeSelector": {key: value}, "tolerations": tolerations}
    return {
        **group,
        "groupName": f"{group['groupName']}-spot",
        "priority": SPOT_PRIORITY,
        "labels": {"ray.io/market-type": "spot"},
        "template": {**template, "spec": pod},
    }


def _pod(
    container: str,
    bundle: Bundle,
    memory_bytes: int,
    parts: PodParts,
    choices: KubernetesChoices,
    ports: tuple[Mapping[str, Any], ...],
) -> dict[str, Any]:
    nodes, environment = choices.nodes, [{"name": "RAYLOOM_STORE", "value": choices.store}]
    rights: dict[str, Any] = {"drop": ["ALL"]}
    resources = {"cpu": f"{bundle.cpus:g}", "memory": f"{memory_bytes // (1 << 20)}Mi"}
    if bundle.gpus:
        resources[choices.gpu_resource] = f"{bundle.gpus:g}"
    if bundle.gpus == nodes.gpus_per_node and nodes.gpu_pod_devices:
        resources |= {name: str(count) for name, count in nodes.gpu_pod_devices.items()}
        rights["add"] = ["IPC_LOCK"]  # RDMA pins memory
    shared = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{memory_bytes // 4 // (1 << 20)}Mi"}}
    mounts = [*parts.mounts, Mount(shared, "/dev/shm", is_read_only=False)]
    if choices.store_claim is not None:
        claim = {"name": STORE_VOLUME, "persistentVolumeClaim": {"claimName": choices.store_claim}}
        mounts.append(Mount(claim, choices.store, is_read_only=False))
    if nodes.cache is not None:
        mounts.append(Mount(_cache_volume(nodes.cache), CACHE_FOLDER, is_read_only=False))
        most = nodes.cache.gib * 9 // 10 << 30
        environment += plain_environment({"RAYLOOM_CACHE": CACHE_FOLDER, "RAYLOOM_CACHE_BYTES": str(most)})
    described = {
        "name": container,
        "image": choices.image,
        "env": [*environment, *map(dict, parts.environment)],
        "envFrom": [{"secretRef": {"name": name}} for name in choices.secrets],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": rights},
        "volumeMounts": [_mounted(mount) for mount in mounts],
    }
    return {
        "spec": {
            "terminationGracePeriodSeconds": STOP_GRACE_SECONDS,
            # `ray start` reaps no orphans: if it were process 1, stopping a job would take the whole grace period.
            "shareProcessNamespace": True,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
            **({"priorityClassName": nodes.priority_class} if nodes.priority_class else {}),
            "containers": [described | ({"ports": [dict(port) for port in ports]} if ports else {})],
            "volumes": [dict(mount.volume) for mount in mounts],
        }
    }


def _cache_volume(cache: CacheVolume) -> dict[str, Any]:
    if cache.host_path is not None:
        return {"name": "cache", "hostPath": {"path": cache.host_path, "type": "Directory"}}
    if cache.storage_class is None:
        return {"name": "cache", "emptyDir": {"sizeLimit": f"{cache.gib}Gi"}}
    wanted = {"requests": {"storage": f"{cache.gib}Gi"}}
    claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": cache.storage_class, "resources": wanted}
    return {"name": "cache", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}}


def _mounted(mount: Mount) -> dict[str, Any]:
    return {"name": mount.volume["name"], "mountPath": mount.path} | ({"readOnly": True} if mount.is_read_only else {})


def plain_environment(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """Environment variables in Kubernetes's form."""
    return [{"name": name, "value": value} for name, value in values.items()]
