"""Checks at the start of a submitted job: the installed versions fit, and all nodes see the store."""

from __future__ import annotations

import platform
import uuid

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayloom.artifacts.store import Store
from rayloom.errors import ResourceError
from rayloom.observe.environment import flavour, installed_versions, requirements, supported_pythons, unmet
from rayloom.observe.ray_session import connect

PROBE_SECONDS = 60.0


def check_cluster(store: Store) -> None:
    """Connects to the cluster. Raises ResourceError if its versions do not fit or a node does not see the store."""
    check_versions()
    connect()
    check_store_is_shared(store)


def check_versions() -> None:
    """Raises ResourceError if Python or the packages on this node do not meet Rayloom's requirements."""
    python, supported = platform.python_version(), supported_pythons()
    if python not in supported:
        what = f"The cluster runs Python {python}, and Rayloom is for {supported}"
        raise ResourceError(what, fix="Use the image of cluster/, or set up the nodes with its lock.")
    installed = installed_versions()
    problems = unmet(requirements(flavour(installed)), installed)
    if problems:
        what = f"Packages on the cluster do not fit: {', '.join(problems)}"
        raise ResourceError(what, fix="Use the image of cluster/, or install its lock on every node.")


def check_store_is_shared(store: Store) -> None:
    """Writes a file to the store. Raises ResourceError if a node does not see it."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    probe = f"{store.root}/.probe-{uuid.uuid4().hex}"
    task = ray.remote(num_cpus=0)(_sees)
    store.filesystem.makedirs(store.root, exist_ok=True)
    store.filesystem.pipe_file(probe, b"rayloom")
    try:
        asked = {
            f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})": task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(store.uri, probe)
            for node in nodes
        }
        answers = ray.get(list(asked.values()), timeout=PROBE_SECONDS)
    finally:
        store.filesystem.rm_file(probe)
    blind = [name for name, answer in zip(asked, answers, strict=True) if not answer]
    if blind:
        fix = "Name a folder on storage that all nodes mount, or a URI such as s3://bucket/prefix, with RAYLOOM_STORE."
        raise ResourceError(
            f"Not every node has the store: {', '.join(blind)} cannot reach it", where=store.uri, fix=fix
        )


def _sees(uri: str, probe: str) -> bool:
    try:
        return bool(Store(uri).filesystem.exists(probe))
    except OSError:
        return False
