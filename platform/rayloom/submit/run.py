"""What a job does on a cluster before and beside its stage: checks of the nodes, and stages that are one task."""

from __future__ import annotations

import io
import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping
from typing import IO, Any, TypeVar, cast

import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayloom.artifacts.store import Store
from rayloom.errors import ResourceError
from rayloom.observe.environment import flavour, installed_versions, requirements, supported_pythons, unmet
from rayloom.observe.progress import console, say
from rayloom.observe.ray_session import connect
from rayloom.specs.base import Bundle
from rayloom.submit.node_probe import NodeAnswer, check_answers, unseen, versions_here, written

PROBE_SECONDS = 60.0

T = TypeVar("T")


def check_cluster(store: Store) -> None:
    """Connects to the cluster. Raises ResourceError if its versions do not fit or a node cannot do its part."""
    check_versions()
    connect()
    check_nodes(store)


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


def check_nodes(store: Store) -> None:
    """Tries out on every node what the job will do there. Raises ResourceError that names the nodes that cannot."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = {f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})": node["NodeID"] for node in alive}
    names = {node: node_id[:8] for node, node_id in nodes.items()}
    folder = f"{store.root}/.probe-{uuid.uuid4().hex}"
    asked = time.time()
    try:
        reports = _on_each(nodes, written, {node: (store, folder, names[node]) for node in nodes})
        answered = time.time()
        answers = [NodeAnswer(node, asked, answered, report) for node, report in reports.items()]
        check_answers(versions_here(), answers, store)
        reasons = _on_each(nodes, unseen, {node: (store, folder, list(names.values())) for node in nodes})
    finally:
        if store.filesystem.exists(folder):
            store.filesystem.rm(folder, recursive=True)
    blind = [f"{node}: {reason}" for node, reason in reasons.items() if reason]
    if blind:
        fix = "Name a folder on storage that all nodes mount, or a URI such as s3://bucket/prefix, with RAYLOOM_STORE."
        raise ResourceError(f"Not every node has the store: {'; '.join(blind)}", where=store.uri, fix=fix)


def _on_each(
    nodes: Mapping[str, str], work: Callable[..., T], arguments: Mapping[str, tuple[Any, ...]]
) -> dict[str, T]:
    """What `work` returns on each node. Raises ResourceError for nodes that do not answer."""
    task = ray.remote(num_cpus=0, max_retries=0)(work)
    asked = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(
            *arguments[node]
        )
        for node, node_id in nodes.items()
    }
    _, waiting = ray.wait(list(asked.values()), num_returns=len(asked), timeout=PROBE_SECONDS)
    if waiting:
        silent = [node for node, answer in asked.items() if answer in waiting]
        what = f"No process of the job starts on {', '.join(silent)} within {PROBE_SECONDS:.0f} s"
        raise ResourceError(what, fix="Look at that node's logs and its free memory, or take it out of the cluster.")
    found: dict[str, T] = {node: ray.get(answer) for node, answer in asked.items()}
    return found


# A stage whose work is one process runs as a task where the cluster has room, so that the driver needs almost nothing.

POLL_SECONDS = 0.5
STOP_WITHIN_SECONDS = 60.0


def in_one_task(work: Callable[[], T], bundle: Bundle, memory_bytes: int, name: str) -> T:
    """What `work` returns, from a task with these resources on any node; what it says is said here.

    If the node is lost, it starts again on another. It waits, and says so, if no node has room for it at the moment.
    """
    connect()
    wanted = {"CPU": float(bundle.cpus), "GPU": float(bundle.gpus), "memory": float(memory_bytes)}
    _check_room(name, wanted)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    said = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    remote = ray.remote(num_cpus=bundle.cpus, num_gpus=bundle.gpus, memory=memory_bytes, name=name)(_told)
    task = remote.remote(work, said)
    try:
        while not ray.wait([task], timeout=POLL_SECONDS)[0]:
            _tell(said)
    except KeyboardInterrupt:
        ray.cancel(task)
        ray.wait([task], timeout=STOP_WITHIN_SECONDS)
        raise
    _tell(said)
    found: T = ray.get(task)
    return found


def _told(work: Callable[[], T], said: Queue) -> T:
    """Runs `work` in a task; what it prints for the user goes to the driver."""
    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    screen = console()
    shown, screen.file = screen.file, cast(IO[str], _Lines(said))
    try:
        return work()
    finally:
        screen.file = shown


class _Lines(io.TextIOBase):
    """A stream that puts what is written to it into a queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def write(self, text: str) -> int:
        self._queue.put(text)
        return len(text)


def _tell(said: Queue) -> None:
    for text in said.get_nowait_batch(said.size()):
        for line in str(text).splitlines():
            say(line)


def _check_room(name: str, wanted: Mapping[str, float]) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0.0) >= amount for kind, amount in wanted.items()) for node in nodes):
        return
    each = f"{wanted['CPU']:g} CPUs, {wanted['GPU']:g} GPUs and about {wanted['memory'] / 1e9:.1f} GB of memory"
    say(f"{name}: waiting for one node with {each}; the cluster has none at the moment")
