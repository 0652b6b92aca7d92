"""Two Ray nodes and a driver on one machine, each with a disk of its own: a folder that is another one for each.

The folder is a mount in a namespace of its own, so it is gone when its node is killed, and a path in it that another
node hands over leads nowhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.service import free_port

STARTS_WITHIN_SECONDS = 90.0
IN_NAMESPACE = 'mount -t tmpfs none "$0" && exec "$@"'


def can_have_own_disks() -> bool:
    """Whether this machine lets this user mount a folder for single processes."""
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass
class OwnDiskNodes:
    """The cluster. `disk`: the folder that each node sees as its own."""

    disk: Path
    address: str
    environment: dict[str, str]
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def own(self, *command: str) -> subprocess.Popen[bytes]:
        """Starts a process with a disk of its own."""
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", IN_NAMESPACE, str(self.disk), *command],
            env=self.environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def driver(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts `rayloom` as a driver of the cluster."""
        return self.own(sys.executable, "-m", "rayloom", *arguments)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process of `own` with all that it started; its disk goes with it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


@contextmanager
def own_disk_nodes(folder: Path, settings: Mapping[str, str]) -> Iterator[OwnDiskNodes]:
    """A head and another node of two CPUs each. `settings`: further environment variables of all processes."""
    (folder / "disk").mkdir(parents=True)
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {"RAYLOOM_CACHE": str(folder / "disk" / "cache"), "TMPDIR": str(folder / "disk")}
    ray = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = OwnDiskNodes(folder / "disk", f"127.0.0.1:{port}", {**kept, **own, **ray, **settings})
    start = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--block",
        "--node-ip-address=127.0.0.1",
        "--num-cpus=2",
    ]
    start.append(f"--object-store-memory={200 << 20}")
    try:
        head = (f"--port={port}", "--head", "--include-dashboard=false", f"--temp-dir=/tmp/rl-{port}")
        cluster.nodes.append(cluster.own(*start, *head, *_ports(port, 0)))
        _wait_for_nodes(cluster, 1)
        cluster.nodes.append(cluster.own(*start, f"--address={cluster.address}", *_ports(port, 1)))
        _wait_for_nodes(cluster, 2)
        cluster.environment["RAY_ADDRESS"] = cluster.address
        yield cluster
    finally:
        for node in cluster.nodes:
            end(node)


def _ports(port: int, number: int) -> list[str]:
    """Arguments of a node. Several share the host, so no port may be Ray's default."""
    first = 21_000 + port % 100 * 200 + number * 100
    agents = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent")
    given = [f"--{name}-port={first + place}" for place, name in enumerate(agents)]
    return [*given, f"--min-worker-port={first + 10}", f"--max-worker-port={first + 99}"]


def _wait_for_nodes(cluster: OwnDiskNodes, count: int) -> None:
    code = (
        "import sys\nfrom ray._raylet import GcsClient\n"
        "nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)\n"
        "sys.exit(sum(node.state == 0 for node in nodes.values()) < int(sys.argv[2]))\n"
    )
    until = time.monotonic() + STARTS_WITHIN_SECONDS
    command = [sys.executable, "-c", code, cluster.address, str(count)]
    while subprocess.run(command, env=cluster.environment, capture_output=True, check=False).returncode:
        assert time.monotonic() < until and all(node.poll() is None for node in cluster.nodes), "Ray did not start"
        time.sleep(0.5)
