"""A job file as Kubernetes objects for KubeRay: a ConfigMap with the job's files, and a RayJob that runs them.

All attempts of a job use the same store, in which a result is published atomically, so a retry continues where the
previous attempt stopped and never publishes twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rayloom.specs.base import Bundle, JobSpec
from rayloom.specs.kubernetes import NodeValues
from rayloom.submit.pods import (
    JOB_FOLDER,
    KubernetesChoices,
    PodParts,
    WorkerGroup,
    check_choices,
    cluster,
    groups_of,
    job_files,
    metadata_of,
    packed,
    plain_environment,
)
from rayloom.submit.resource_requests import DRIVER_CPUS
from rayloom.submit.submission import STOP_GRACE_SECONDS

KEPT_SECONDS = 3600


def manifest(
    spec: JobSpec, specs: Sequence[JobSpec], files: Mapping[str, str], entry: str, choices: KubernetesChoices
) -> list[dict[str, Any]]:
    """The objects to apply, in order.

    `specs`: the jobs to run (a pipeline's stages, else the spec itself). `files`: their texts by relative path; `entry`
    is the path that is run. Raises InputError if they do not fit into a ConfigMap, or choices contradict each other.
    """
    check_choices(files, choices)
    metadata = metadata_of(spec, choices)
    config, mount = job_files(f"{metadata['name']}-files", files, metadata)
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
            "rayClusterSpec": cluster(_groups(specs, choices.nodes), PodParts(_environment(), (mount,)), choices),
        },
    }
    return [config, job]


def _groups(specs: Sequence[JobSpec], nodes: NodeValues) -> list[WorkerGroup]:
    """One group for each size of pod, with as many pods as any one job can use at the same time."""
    most: Counter[Bundle] = Counter()
    for spec in specs:
        pods = packed(Counter(spec.most_bundles()), nodes)
        if spec.takes_all_cpus:
            pods[Bundle(nodes.cpus_per_node, 0)] += nodes.max_cpu_nodes
        most |= pods or Counter([Bundle(1, 0)])
    return groups_of(most)


def _environment() -> tuple[dict[str, Any], ...]:
    plain = {
        "RAYLOOM_ON_CLUSTER": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_SECONDS),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
    }
    # Each attempt gets a cluster of its own; its name distinguishes the attempts' logs.
    attempt = {"fieldRef": {"fieldPath": "metadata.labels['ray.io/cluster']"}}
    return (*plain_environment(plain), {"name": "RAYLOOM_ATTEMPT", "valueFrom": attempt})
