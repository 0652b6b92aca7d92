"""One node of a local cluster: a raylet and its worker processes, in a process session of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayloom.observe.ray_session import EMBEDDED_ENVIRONMENT
from rayloom.submit import own_disks
from rayloom.submit.own_networks import OwnNetworks

STOP_SECONDS = 3.0
"""Time between SIGTERM and SIGKILL; less than the half minute for which Ray drains a node, which is not needed here."""
OBJECT_STORE_BYTES = 300_000_000
WORKER_PORTS_PER_NODE = 100
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Shape:
    """The configuration of a local cluster, with all that is needed to restart any of its nodes."""

    num_nodes: int
    cpus_per_node: int
    port: int
    dashboard_port: int
    head_cpus: int | None = None
    """CPUs of the head, if not `cpus_per_node`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Additional environment variables of all nodes, such as the paths of certificates."""
    head_environment: Mapping[str, str] = field(default_factory=dict)
    """Additional ones of the head only, such as the address of a Redis that keeps its state if it dies."""
    own_disks: bool = False
    """Whether nodes share no disk; they need networks of their own."""

    def arguments(self, number: int, folder: Path, head_address: str, networks: OwnNetworks | None) -> list[str]:
        """Arguments of `ray start` for one node; 0 is the head. `head_address`: empty if it is not known yet."""
        placed = [f"--temp-dir={temporary_folder(folder, number, networks)}"]
        placed += [f"--node-ip-address={networks.address(number)}"] if networks else []
        if number:
            return [f"--address={head_address}:{self.port}", *placed, *self._of_any(number)]
        host = networks.address(0) if networks else LOOPBACK
        return [
            "--head", f"--port={self.port}", f"--dashboard-host={host}", f"--dashboard-port={self.dashboard_port}",
            *placed, *self._of_any(0),
        ]  # fmt: skip

    def _of_any(self, number: int) -> list[str]:
        """Arguments of any node. Several raylets share the host, so no port may be Ray's default."""
        first = 20_000 + self.port % 1000 * 10 + number * WORKER_PORTS_PER_NODE
        cpus = self.cpus_per_node if number or self.head_cpus is None else self.head_cpus
        return [
            "--block", "--disable-usage-stats", f"--num-cpus={cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}",
            f"--min-worker-port={first + 10}", f"--max-worker-port={first + WORKER_PORTS_PER_NODE - 1}",
            f"--dashboard-agent-listen-port={first}", f"--dashboard-agent-grpc-port={first + 1}",
            f"--metrics-export-port={first + 2}", f"--runtime-env-agent-port={first + 3}",
            f"--labels=rayloom.io/node={'head' if number == 0 else f'worker-{number}'}",
        ]  # fmt: skip


def temporary_folder(folder: Path, number: int, networks: OwnNetworks | None) -> Path:
    """Ray's temporary folder of a node. With own networks all nodes use one path, at which each mounts its own disk.

    If nodes shared a folder, they would share the working directories of jobs. Ray removes such a directory and unpacks
    it again when a task on another node needs it (`ray/_private/runtime_env/packaging.py`, `overwrite`), even while a
    driver runs in it, which then fails because its files are gone.
    """
    return folder / ("r" if networks is not None else f"r{number}")


def disk_of(folder: Path, number: int) -> Path:
    """The folder of a node with its own network that only this node sees."""
    return folder / f"disk-{number}"


def start(shape: Shape, number: int, folder: Path, head_address: str, networks: OwnNetworks | None) -> int:
    """Starts one node; returns its process session id."""
    arguments = shape.arguments(number, folder, head_address, networks)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
    if networks is not None:
        disk, temporary = disk_of(folder, number), temporary_folder(folder, number, networks)
        disk.mkdir(exist_ok=True)
        temporary.mkdir(exist_ok=True)
        mounts = own_disks.prepare(disk, folder) if shape.own_disks else [(disk, temporary)]
        command = networks.alone(number, command, mounts)
    with (folder / f"node-{number}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env=environment_of(shape, number, folder, networks),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process.pid


def environment_of(shape: Shape, number: int, folder: Path, networks: OwnNetworks | None) -> dict[str, str]:
    """The environment of a node's processes, whatever clusters this process had before."""
    # With the variables of an embedded cluster, which this process may have had, Ray refuses a node that joins another.
    inherited = {name: value for name, value in os.environ.items() if name not in EMBEDDED_ENVIRONMENT}
    environment = {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        **({"GLOO_SOCKET_IFNAME": "eth0"} if networks else {}),  # resolving the host name would give Gloo the loopback
        **(own_disks.environment(folder) if shape.own_disks else {}),
        **shape.environment,
        **(shape.head_environment if number == 0 else {}),
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    return environment


def kill(session: int) -> None:
    """Kills a node's processes (SIGKILL), to simulate a power failure."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def end(sessions: Sequence[int]) -> None:
    """Sends SIGTERM to all nodes, workers first, and SIGKILL after `STOP_SECONDS`."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for session in reversed(sessions):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, number)
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until and any(is_alive(session) for session in sessions):
            time.sleep(0.1)


def is_alive(session: int) -> bool:
    """Whether a process of the node's process group is alive; zombies do not count."""
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
