"""One node of a local cluster: a real raylet with its own processes, in a process session of its own."""

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

from rayloom.submit.own_networks import OwnNetworks

STOP_SECONDS = 3.0
"""A node that is asked to end first drains for up to half a minute; nothing here is worth that."""
OBJECT_STORE_BYTES = 300_000_000
WORKER_PORTS_PER_NODE = 100
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Shape:
    """How a local cluster is laid out; enough to start any of its nodes again."""

    num_nodes: int
    cpus_per_node: int
    port: int
    dashboard_port: int
    head_cpus: int | None = None
    """Where the head has not as many as the others."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What all nodes get besides, such as certificates."""
    head_environment: Mapping[str, str] = field(default_factory=dict)
    """What only the head gets, such as the address of the Redis that keeps its state when it dies."""

    def arguments(self, number: int, folder: Path, head_address: str, networks: OwnNetworks | None) -> list[str]:
        """What `ray start` is told for one node; 0 is the head. `head_address`: empty if it is not known yet."""
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
        """Several raylets share the host, so nothing may take a default port."""
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
    """Where Ray keeps a node's session, one for each node: with own networks at one path, which each mounts its own at.

    Nodes that shared one would share the working directories of jobs. Ray removes such a directory and unpacks it again
    when a task on another node needs it (`ray/_private/runtime_env/packaging.py`, `overwrite`), also while a driver
    runs in it, which then dies of files that are gone.
    """
    return folder / ("r" if networks is not None else f"r{number}")


def start(shape: Shape, number: int, folder: Path, head_address: str, networks: OwnNetworks | None) -> int:
    """Starts one node; the id of its process session."""
    arguments = shape.arguments(number, folder, head_address, networks)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
    if networks is not None:
        disk, temporary = folder / f"disk-{number}", temporary_folder(folder, number, networks)
        disk.mkdir(exist_ok=True)
        temporary.mkdir(exist_ok=True)
        command = networks.alone(number, command, disk, temporary)
    with (folder / f"node-{number}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env=_environment(shape, number, folder, networks),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process.pid


def _environment(shape: Shape, number: int, folder: Path, networks: OwnNetworks | None) -> dict[str, str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        **({"GLOO_SOCKET_IFNAME": "eth0"} if networks else {}),  # by name of the host it would find the loopback
        **shape.environment,
        **(shape.head_environment if number == 0 else {}),
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    return environment


def kill(session: int) -> None:
    """Ends a node at once, as a machine that loses its power does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def end(sessions: Sequence[int]) -> None:
    """Asks all nodes to end, workers first, then makes them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for session in reversed(sessions):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, number)
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until and any(is_alive(session) for session in sessions):
            time.sleep(0.1)


def is_alive(session: int) -> bool:
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
