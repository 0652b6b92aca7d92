"""Networks for nodes: each sees the others until its cable is pulled, and nothing is left afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.training_cluster import networks_if_allowed

from rayloom.errors import ResourceError
from rayloom.submit import own_networks
from rayloom.submit.own_networks import OwnNetworks

# A refusal comes from the other node: its network is reached, where nothing listens on this port.
KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=0.5)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def networks() -> Iterator[OwnNetworks]:
    made = networks_if_allowed(2)
    if made is None:
        pytest.skip("this machine does not allow networks for nodes")
    yield made
    made.remove()
    left = [*Path("/sys/class/net").glob(f"*{made.bridge}*"), *Path("/run/netns").glob(f"{made.bridge}-*")]
    assert left == []


def test_a_cable_is_pulled_and_put_back(networks: OwnNetworks) -> None:
    def knock(node: int, address: str) -> str:
        command = networks.entered(node, [sys.executable, "-c", KNOCK, address])
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert knock(0, networks.address(1)) == "ConnectionRefusedError"
    assert knock(1, networks.here) == "ConnectionRefusedError"
    networks.cut(1)
    assert knock(0, networks.address(1)) == "TimeoutError"
    assert knock(0, networks.here) == "ConnectionRefusedError"
    networks.heal(1)
    assert knock(0, networks.address(1)) == "ConnectionRefusedError"


def test_without_the_commands_for_it_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ResourceError, match=r"need the commands ip, nsenter and unshare.*--own-networks"):
        own_networks.make(2)
