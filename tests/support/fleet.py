"""Nodes that share nothing but a bucket, jobs on them, and what each node asked of the bucket's server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayloom.artifacts.store import Store
from rayloom.submit.local_cluster import LocalCluster, down, up
from rayloom.submit.local_node import Shape
from support.fleet_jobs import write_jobs
from support.training_cluster import networks_if_allowed, own_cache, store_of
from support.training_jobs import made_up_corpus

ENDS_WITHIN_SECONDS = 800.0


@dataclass(frozen=True)
class Fleet:
    """The cluster, its bucket as a store, and the folder with the job files."""

    folder: Path
    cluster: LocalCluster
    store: Store

    def rayloom(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return subprocess.run(
            [sys.executable, "-m", "rayloom", *arguments],
            cwd=self.folder / "jobs",
            env={**kept, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=ENDS_WITHIN_SECONDS,
        )

    def submitted(self, name: str) -> None:
        """Runs a job on the cluster to its end. Raises AssertionError, with all that it said, if it fails."""
        ended = self.rayloom("submit", f"{name}.yaml", "--follow")
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def fetches(self) -> Counter[tuple[str, str]]:
        """How often each node (by address) has got each file of a finished artifact from the bucket's server."""
        files = {f"{m.name}/{m.version}/{file.path}" for m in self.store.manifests() for file in m.files}
        log = (Path(self.cluster.folder) / "bucket.log").read_text()
        asked = re.findall(r'^([\d.]+) - - \[[^]]*\] "(?:\x1b\[\d+m)*GET (\S+)', log, re.MULTILINE)
        nodes = {node.address for node in self.cluster.api().nodes()}
        prefix = f"/{self.store.root}/"
        counted = [(node, path.removeprefix(prefix)) for node, path in asked if node in nodes]
        return Counter((node, path) for node, path in counted if path in files)


@contextmanager
def fleet(folder: Path, port: int, dashboard_port: int, num_nodes: int = 2) -> Iterator[Fleet | None]:
    """The cluster with the jobs of `fleet_jobs` beside it, until the block ends; None if this machine forbids it."""
    networks = networks_if_allowed(num_nodes)
    if networks is None:
        yield None
        return
    write_jobs(folder / "jobs")
    with own_cache(folder / "cache"), pytest.MonkeyPatch.context() as patch:
        cluster = up(Shape(num_nodes, 1, port, dashboard_port, head_cpus=2, own_disks=True), networks)
        try:
            assert cluster.bucket is not None
            store = store_of(cluster.bucket, patch)
            made_up_corpus(store)
            yield Fleet(folder, cluster, store)
        finally:
            down()
