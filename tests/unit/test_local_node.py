"""Nodes of a local cluster: what they are started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayloom.observe.ray_session import EMBEDDED_ENVIRONMENT
from rayloom.submit.local_node import Shape, environment_of


def test_a_node_inherits_nothing_of_an_embedded_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ran a job before has the variables of its own cluster, with which no node may join another."""
    bare = environment_of(Shape(2, 1, 6379, 8265), 1, tmp_path, None)
    for name, value in EMBEDDED_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    assert environment_of(Shape(2, 1, 6379, 8265), 1, tmp_path, None) == bare
