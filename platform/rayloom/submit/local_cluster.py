"""A cluster of several nodes on one machine, for trying what needs more than one: `rayloom cluster up|down`.

Each node is a real raylet with its own processes, started by Ray's own command in a session of its own, so that taking
the cluster down ends exactly those processes and no other Ray on the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rayloom.errors import InputError, ResourceError
from rayloom.submit.jobs_api import JobsApi

START_SECONDS = 90.0
STOP_SECONDS = 3.0
"""A node that is asked to end first drains for up to half a minute; nothing here is worth that."""
OBJECT_STORE_BYTES = 300_000_000
WORKER_PORTS_PER_NODE = 100


@dataclass(frozen=True)
class LocalCluster:
    """What `down` and the other commands must know of a cluster that `up` started."""

    dashboard: str
    gcs_address: str
    sessions: tuple[int, ...]
    """Ids of the process sessions of the nodes, the head's first."""
    folder: str

    def token(self) -> str:
        return (Path(self.folder) / "token").read_text().strip()

    def api(self) -> JobsApi:
        return JobsApi(self.dashboard, self.token())


def state_file() -> Path:
    return Path(os.environ.get("RAYLOOM_CACHE", "~/.cache/rayloom")).expanduser() / "local-cluster.json"


def read_state() -> LocalCluster | None:
    """The cluster that runs on this machine, or None."""
    try:
        facts = json.loads(state_file().read_text())
    except (FileNotFoundError, ValueError):
        return None
    state = LocalCluster(**{**facts, "sessions": tuple(facts["sessions"])})
    return state if any(_is_alive(session) for session in state.sessions) else None


def up(num_nodes: int, cpus_per_node: int, port: int, dashboard_port: int) -> LocalCluster:
    """Starts a head and workers; returns when every node has joined. Raises ResourceError where they do not."""
    running = read_state()
    if running is not None:
        raise InputError("A local cluster runs already", where=running.dashboard, fix="`rayloom cluster down` ends it.")
    for wanted in (port, dashboard_port):
        _check_free(wanted)
    # Short, because the paths of sockets below it may have 107 characters; private, because it holds the token.
    folder = Path(tempfile.mkdtemp(prefix="rayloom-cl-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    environment.pop("RAY_AUTH_TOKEN", None)
    host = "127.0.0.1"
    head = [
        "--head", f"--port={port}", f"--dashboard-host={host}", f"--dashboard-port={dashboard_port}",
        f"--temp-dir={folder / 'r'}", *_node(0, cpus_per_node, port),
    ]  # fmt: skip
    cluster = LocalCluster(f"http://{host}:{dashboard_port}", "", (_start(head, environment, folder, 0),), str(folder))
    try:
        address = _await_nodes(cluster, 1)
        for number in range(1, num_nodes):
            node = [f"--address={address}:{port}", *_node(number, cpus_per_node, port)]
            session = _start(node, environment, folder, number)
            cluster = LocalCluster(cluster.dashboard, f"{address}:{port}", (*cluster.sessions, session), str(folder))
            # One after the other: nodes of one host that start at once take the same names for their sockets and logs.
            _await_nodes(cluster, number + 1)
    except BaseException:
        _end(cluster.sessions)
        raise
    cluster = LocalCluster(cluster.dashboard, f"{address}:{port}", cluster.sessions, str(folder))
    state_file().parent.mkdir(parents=True, exist_ok=True)
    state_file().write_text(json.dumps(asdict(cluster)))
    return cluster


def down() -> LocalCluster | None:
    """Ends every process of the local cluster and removes its folder; the cluster that ran, or None."""
    cluster = read_state()
    if cluster is not None:
        _end(cluster.sessions)
        shutil.rmtree(cluster.folder, ignore_errors=True)
    state_file().unlink(missing_ok=True)
    return cluster


def kill_node(cluster: LocalCluster, number: int) -> None:
    """Ends one node at once, as a machine that loses its power does. Node 0 is the head."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(cluster.sessions[number], signal.SIGKILL)


def _node(number: int, cpus: int, port: int) -> list[str]:
    """Arguments of one node: several raylets share the host, so nothing may take a default port."""
    first = 20_000 + port % 1000 * 10 + number * WORKER_PORTS_PER_NODE
    return [
        "--block", "--disable-usage-stats", f"--num-cpus={cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--min-worker-port={first + 10}", f"--max-worker-port={first + WORKER_PORTS_PER_NODE - 1}",
        f"--dashboard-agent-listen-port={first}", f"--dashboard-agent-grpc-port={first + 1}",
        f"--metrics-export-port={first + 2}", f"--runtime-env-agent-port={first + 3}",
        f"--labels=rayloom.io/node={'head' if number == 0 else f'worker-{number}'}",
    ]  # fmt: skip


def _start(arguments: Sequence[str], environment: dict[str, str], folder: Path, number: int) -> int:
    """Starts one node in a process session of its own; its id."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
    with (folder / f"node-{number}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return process.pid


def _await_nodes(cluster: LocalCluster, number: int) -> str:
    """Returns the head's address once so many nodes are alive."""
    api, until = cluster.api(), time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        dead = [index for index, session in enumerate(cluster.sessions) if not _is_alive(session)]
        if dead:
            log = (Path(cluster.folder) / f"node-{dead[0]}.log").read_text(errors="replace")
            last = log.strip().splitlines()[-1:] or ["it said nothing"]
            raise ResourceError(f"Node {dead[0]} ended: {last[0]}", where=cluster.folder, fix="Its logs stand there.")
        with contextlib.suppress(ResourceError, InputError):
            nodes = api.nodes()
            if len(nodes) >= number:
                return next(node.address for node in nodes if node.is_head)
        time.sleep(0.3)
    fix = f"The logs stand in {cluster.folder}; `rayloom doctor` shows what is short."
    raise ResourceError(f"The cluster did not have {number} nodes after {START_SECONDS:.0f} s", fix=fix)


def _end(sessions: Sequence[int]) -> None:
    """Asks all nodes to end, workers first, then makes them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for session in reversed(sessions):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, number)
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until and any(_is_alive(session) for session in sessions):
            time.sleep(0.1)


def _is_alive(session: int) -> bool:
    """Whether a process of this group lives; one that ended and was not waited for does not."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(session, os.WNOHANG)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == session and fields[0] != "Z":
            return True
    return False


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            fix = "Choose another with --port or --dashboard-port."
            raise ResourceError(f"Port {port} is in use", fix=fix) from None
