"""Every kind of batch job on two nodes that share nothing but a bucket, against the same jobs on one machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.fleet_jobs import PIPELINE, results, write_jobs
from support.training_cluster import networks_if_allowed, own_cache, store_of
from support.training_jobs import made_up_corpus

from rayloom.artifacts.store import Store
from rayloom.submit.local_cluster import LocalCluster, down, up
from rayloom.submit.local_node import Shape

# The cluster's nodes outlive the call that started them, as they should.
NODES_LIVE_ON = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
pytestmark = [pytest.mark.full, NODES_LIVE_ON]
PORT, DASHBOARD_PORT = 6443, 8303
ENDS_WITHIN_SECONDS = 800.0


@dataclass(frozen=True)
class Fleet:
    """The cluster, its bucket as a store, and the folder with the job files."""

    folder: Path
    cluster: LocalCluster
    store: Store
    environment: dict[str, str]

    def rayloom(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rayloom", *arguments],
            cwd=self.folder / "jobs",
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=ENDS_WITHIN_SECONDS,
        )

    def requests(self) -> list[tuple[str, str, str]]:
        """Address of the node, method and path of each request so far to the bucket's server."""
        log = (Path(self.cluster.folder) / "bucket.log").read_text()
        return re.findall(r'^([\d.]+) - - \[[^]]*\] "(?:\x1b\[\d+m)*([A-Z]+) (\S+)', log, re.MULTILINE)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    networks = networks_if_allowed(2)
    if networks is None:
        pytest.skip("this machine does not allow networks for nodes")
    folder = tmp_path_factory.mktemp("own-disks")
    write_jobs(folder / "jobs")
    with own_cache(folder / "cache"), pytest.MonkeyPatch.context() as patch:
        cluster = up(Shape(2, 1, PORT, DASHBOARD_PORT, head_cpus=2, own_disks=True), networks)
        try:
            assert cluster.bucket is not None
            store = store_of(cluster.bucket, patch)
            made_up_corpus(store)
            kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
            yield Fleet(folder, cluster, store, kept)
        finally:
            down()


def test_all_kinds_give_what_they_give_on_one_machine(fleet: Fleet) -> None:
    ended = fleet.rayloom("submit", f"{PIPELINE}.yaml", "--follow")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    local = Store(str(fleet.folder / "one-machine"))
    made_up_corpus(local)
    alone = fleet.rayloom("run", f"{PIPELINE}.yaml", RAYLOOM_STORE=local.root)
    assert alone.returncode == 0, alone.stderr
    found, expected = results(fleet.store), results(local)
    for name, value in expected.items():
        assert found[name] == value, name


def test_the_workers_trained_on_two_nodes_and_each_fetched_an_artifact_once(fleet: Fleet) -> None:
    """Runs after the pipeline."""
    heads = {node.address for node in fleet.cluster.api().nodes()}
    corpus = fleet.store.resolve("made-up")
    fetches: dict[tuple[str, str], int] = {}
    for node, method, path in fleet.requests():
        if method == "GET" and path.endswith(f"{corpus.version}/train/00000.tokens.npy"):
            fetches[node, path] = fetches.get((node, path), 0) + 1
    assert {node for node, _ in fetches} == heads, fetches
    assert set(fetches.values()) == {1}


def test_what_nodes_share_is_only_the_bucket(fleet: Fleet) -> None:
    state: dict[str, Any] = json.loads((fleet.folder / "cache" / "local-cluster.json").read_text())
    disks = [Path(state["folder"]) / f"disk-{number}" for number in range(2)]
    caches = [{path.name for path in disk.glob("rayloom-cl-*/cache/rayloom/*")} for disk in disks]
    assert all("artifacts" in names for names in caches), caches
