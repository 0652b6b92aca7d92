"""A Ray cluster of several nodes on one machine, for testing multi-node behaviour: `rayloom cluster up|down`.

Each node is started by Ray's own command in a process session of its own, so that `down` ends exactly those processes
and no other Ray on the machine. With own networks, each node also has its own IP address.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rayloom.errors import InputError, ResourceError
from rayloom.observe.ports import check_port
from rayloom.submit import local_node
from rayloom.submit.jobs_api import DEFAULT_ADDRESS, JobsApi, token_here
from rayloom.submit.local_node import LOOPBACK, Shape
from rayloom.submit.own_disks import Bucket, start_bucket
from rayloom.submit.own_networks import OwnNetworks

START_SECONDS = 90.0


@dataclass(frozen=True)
class LocalCluster:
    """The state of a cluster that `up` started, saved for `down` and the other commands."""

    dashboard: str
    gcs_address: str
    sessions: tuple[int, ...]
    """Process session ids of the nodes, the head's first."""
    folder: str
    shape: Shape
    networks: OwnNetworks | None = None
    bucket: Bucket | None = None
    """The store of nodes that share no disk."""

    def token(self) -> str:
        return (Path(self.folder) / "token").read_text().strip()

    def api(self) -> JobsApi:
        return JobsApi(self.dashboard, self.token())

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which a process on this machine connects to the cluster as a driver."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{self.folder}/token"}
        return {**self.shape.environment, **token, "RAY_ADDRESS": self.gcs_address}


def state_file() -> Path:
    return Path(os.environ.get("RAYLOOM_CACHE", "~/.cache/rayloom")).expanduser() / "local-cluster.json"


def read_state() -> LocalCluster | None:
    """The cluster that runs on this machine, or None."""
    state = _remembered()
    return state if state and any(local_node.is_alive(session) for session in _all_sessions(state)) else None


def _remembered() -> LocalCluster | None:
    """The cluster that was started last, which may have ended since."""
    try:
        facts = json.loads(state_file().read_text())
        facts |= {"sessions": tuple(facts["sessions"]), "shape": Shape(**facts["shape"])}
        facts["networks"] = OwnNetworks(**facts["networks"]) if facts["networks"] else None
        facts["bucket"] = Bucket(**facts["bucket"]) if facts["bucket"] else None
        return LocalCluster(**facts)
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or written by another version of Rayloom
        return None


def up(shape: Shape, networks: OwnNetworks | None = None) -> LocalCluster:
    """Starts a head and workers; returns when every node has joined. Raises ResourceError if they do not.

    `networks`: one for each node, if wanted; removed with the cluster, or now if it does not start. Nodes that share no
    disk need them.
    """
    cluster = None
    try:
        cluster = _new(shape, networks)
        for number in range(shape.num_nodes):
            # One after the other: nodes that start on one host at the same time choose the same socket and log names.
            cluster = _with_node(cluster, number)
    except BaseException:
        if cluster is not None:
            local_node.end(_all_sessions(cluster))
        if networks is not None:
            networks.remove()
        raise
    _remember(cluster)
    return cluster


def _new(shape: Shape, networks: OwnNetworks | None) -> LocalCluster:
    """A cluster without nodes. Raises InputError if one runs already, and ResourceError if a port is taken."""
    running = read_state()
    if running is not None:
        raise InputError("A local cluster runs already", where=running.dashboard, fix="`rayloom cluster down` ends it.")
    if networks is None:
        for wanted in (shape.port, shape.dashboard_port):
            check_port(LOOPBACK, wanted, "Choose another with --port or --dashboard-port.")
    # Short, because socket paths below it may have at most 107 characters; private, because it holds the token.
    folder = Path(tempfile.mkdtemp(prefix="rayloom-cl-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    host = networks.address(0) if networks else LOOPBACK
    bucket = None
    if shape.own_disks and networks is not None:
        bucket = start_bucket(networks.here, folder)
        shape = replace(shape, environment={**bucket.settings, **shape.environment})
    return LocalCluster(f"http://{host}:{shape.dashboard_port}", "", (), str(folder), shape, networks, bucket)


def _all_sessions(cluster: LocalCluster) -> list[int]:
    """The process sessions of the bucket's server, if there is one, and of all nodes."""
    return [*([] if cluster.bucket is None else [cluster.bucket.session]), *cluster.sessions]


def _with_node(cluster: LocalCluster, number: int) -> LocalCluster:
    """Starts a node; returns the cluster when it has joined. If it does not join, its processes are ended."""
    address = cluster.gcs_address.rpartition(":")[0]
    session = local_node.start(cluster.shape, number, Path(cluster.folder), address, cluster.networks)
    sessions = (*cluster.sessions[:number], session, *cluster.sessions[number + 1 :])
    started = replace(cluster, sessions=sessions)
    try:
        address = _await_node(started, number)
    except BaseException:
        local_node.end([session])
        raise
    return replace(started, gcs_address=f"{address}:{cluster.shape.port}")


def down() -> LocalCluster | None:
    """Ends the local cluster's processes and removes its files and networks; returns the cluster that ran, or None."""
    running, cluster = read_state(), _remembered()
    if running is not None:
        local_node.end(_all_sessions(running))
    if cluster is not None:
        if cluster.networks is not None:
            cluster.networks.remove()
        shutil.rmtree(cluster.folder, ignore_errors=True)
    state_file().unlink(missing_ok=True)
    return running


def kill_node(cluster: LocalCluster, number: int) -> None:
    """Kills one node (SIGKILL), to simulate a power failure. Node 0 is the head."""
    local_node.kill(cluster.sessions[number])


def lose_node(cluster: LocalCluster, number: int) -> None:
    """Kills one node and removes what was on its own disk."""
    kill_node(cluster, number)
    while local_node.is_alive(cluster.sessions[number]):  # else what it still writes would stay
        time.sleep(0.05)
    shutil.rmtree(local_node.disk_of(Path(cluster.folder), number))


def start_again(cluster: LocalCluster, number: int) -> LocalCluster:
    """Restarts a node that ended, with its old address; returns the cluster. A head needs Redis to keep its state."""
    again = _with_node(cluster, number)
    _remember(again)
    return again


def _remember(cluster: LocalCluster) -> None:
    state_file().parent.mkdir(parents=True, exist_ok=True)
    state_file().write_text(json.dumps(asdict(cluster)))


def _await_node(cluster: LocalCluster, number: int) -> str:
    """Waits until this node and those before it are alive; returns the head's address."""
    api, until = cluster.api(), time.monotonic() + START_SECONDS
    label = "head" if number == 0 else f"worker-{number}"
    while time.monotonic() < until:
        if not local_node.is_alive(cluster.sessions[number]):
            log = (Path(cluster.folder) / f"node-{number}.log").read_text(errors="replace")
            last = log.strip().splitlines()[-1:] or ["it said nothing"]
            raise ResourceError(
                f"Node {number} ended: {last[0]}", where=cluster.folder, fix="Its logs are in that folder."
            )
        with contextlib.suppress(ResourceError, InputError):
            nodes = api.nodes()
            if any(node.labels.get("rayloom.io/node") == label for node in nodes):
                return next(node.address for node in nodes if node.is_head)
        time.sleep(0.3)
    fix = f"Its logs are in {cluster.folder}; `rayloom doctor` shows what this machine lacks."
    raise ResourceError(f"Node {number} had not joined after {START_SECONDS:.0f} s", fix=fix)


# The cluster that a command uses: the one named, else the environment's, else the local one.


def cluster_api(address: str | None) -> JobsApi:
    """The Jobs API of a cluster."""
    named = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    local = read_state()
    if local is not None and named in (None, local.dashboard):
        return JobsApi(local.dashboard, token_here() or local.token())
    return JobsApi(named or DEFAULT_ADDRESS, token_here())
