"""A network namespace for each node of a local cluster, with its own IP address and a link that can be cut.

The Linux network namespaces are joined by a bridge and made with the `ip` command, which needs root. The addresses are
of 198.18.0.0/15, reserved for benchmarks (RFC 2544) and not routed, so nodes reach only each other and this machine.
Each node also has its own process namespace and temporary folder: otherwise Ray would find the other nodes' processes
or sessions there, and a driver could take the address of one of them.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayloom.errors import ResourceError

MOST_NETWORKS = 250
FIRST_NODE = 10
"""The last part of the head's address; this machine's end, the bridge, has 1."""
# The shell stays process 1 of the namespace, because process 1 must reap orphans and `ray start` does not.
_MOUNTING = """
set -e
mount -t tmpfs tmpfs /dev/shm
left=$1; shift
while [ "$left" -gt 0 ]; do mount --rbind "$1" "$2"; shift 2; left=$((left - 1)); done
cd /
set +e
"$@"
exit $?
"""
"""A script that mounts, in the order given, and then runs the command: `COUNT (FOLDER PATH)… COMMAND…`."""


@dataclass(frozen=True)
class OwnNetworks:
    """The networks of one cluster; `number` distinguishes clusters on the same machine."""

    number: int

    @property
    def bridge(self) -> str:
        return f"rayloom{self.number}"

    @property
    def here(self) -> str:
        """This machine's address in the nodes' network."""
        return f"198.18.{self.number}.1"

    def address(self, node: int) -> str:
        return f"198.18.{self.number}.{FIRST_NODE + node}"

    def entered(self, node: int, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` in the node's network namespace."""
        return ["nsenter", f"--net=/run/netns/{self._namespace(node)}", *command]

    def alone(self, node: int, command: Sequence[str], mounts: Sequence[tuple[Path, Path]]) -> list[str]:
        """Like `entered`, also with a process namespace and shared memory of its own.

        `mounts`: folders of this machine, each with the path at which the node sees it. All processes in it are killed
        when the started process ends.
        """
        pairs = [str(path) for mount in mounts for path in mount]
        mounting = ["sh", "-c", _MOUNTING, "sh", str(len(mounts)), *pairs, *command]
        return self.entered(node, ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *mounting])

    def cut(self, node: int) -> None:
        """Cuts the node's link: packets from and to it are dropped without an error."""
        _ip("link", "set", self._cable(node), "nomaster")

    def heal(self, node: int) -> None:
        _ip("link", "set", self._cable(node), "master", self.bridge)

    def remove(self) -> None:
        """Removes namespaces, links and bridge; the nodes' processes must have ended."""
        for namespace in Path("/run/netns").glob(f"{self.bridge}-*"):
            _ip("netns", "del", namespace.name)
        for cable in Path("/sys/class/net").glob(f"rl{self.number}-*"):
            with contextlib.suppress(ResourceError):  # the kernel removes it with its namespace, with a delay
                _ip("link", "del", cable.name)
        if Path("/sys/class/net", self.bridge).exists():
            _ip("link", "del", self.bridge)

    def _namespace(self, node: int) -> str:
        return f"{self.bridge}-{node}"

    def _cable(self, node: int) -> str:
        """Name of the link's end on this machine."""
        return f"rl{self.number}-{node}"

    def _make(self, num_nodes: int) -> None:
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("address", "add", f"{self.here}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        for node in range(num_nodes):
            inside, cable = self._namespace(node), self._cable(node)
            _ip("netns", "add", inside)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", inside)
            _ip("link", "set", cable, "master", self.bridge, "up")
            _ip("-n", inside, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
            _ip("-n", inside, "link", "set", "lo", "up")
            _ip("-n", inside, "link", "set", "eth0", "up")
            # Ray finds a node's own address through the route to an outside address.
            _ip("-n", inside, "route", "add", "default", "via", self.here)


def make(num_nodes: int) -> OwnNetworks:
    """Creates networks for `num_nodes` nodes. Raises ResourceError if this machine does not allow them."""
    taken = {path.name for path in Path("/sys/class/net").iterdir()}
    number = next(number for number in range(1, MOST_NETWORKS) if f"rayloom{number}" not in taken)
    networks = OwnNetworks(number)
    try:
        networks._make(num_nodes)
    except ResourceError:
        with contextlib.suppress(ResourceError):
            networks.remove()
        raise
    return networks


def _ip(*arguments: str) -> None:
    fix = "Run as root on Linux with iproute2 and network namespaces, or leave --own-networks out."
    if any(shutil.which(program) is None for program in ("ip", "nsenter", "unshare")):
        raise ResourceError("Networks for the nodes need the commands ip, nsenter and unshare", fix=fix)
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ResourceError(f"This machine does not allow networks of its own for nodes: {reason}", fix=fix)
