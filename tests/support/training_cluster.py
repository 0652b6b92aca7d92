"""A cluster of a head and two workers, and jobs on it.

Where the machine allows it, each node has an address and a disk of its own, and the store is a bucket.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from s3fs import S3FileSystem

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import ResourceError
from rayloom.submit import own_networks
from rayloom.submit.jobs_api import ClusterJob
from rayloom.submit.local_cluster import LocalCluster, down, start_again, up
from rayloom.submit.local_node import Shape, end, is_alive
from rayloom.submit.own_disks import Bucket
from rayloom.train.loop.run_log import read_log
from support.training_jobs import LENGTH, made_up_corpus, small_spec

NUM_NODES = 3
# Long enough for a notice to come and be heard before the end.
NUM_STEPS, EVERY_STEPS, SEQUENCES_PER_STEP = 1500, 50, 16
ENDS_WITHIN_SECONDS = 400.0
# Two CPUs a worker on nodes of two CPUs: each worker has a node to itself. The head's third is the driver's.
WORKERS = {"num_workers": 2, "cpus_per_worker": 2}


@dataclass
class TrainingCluster:
    """The cluster, the store of its nodes, and a folder from which jobs are submitted."""

    folder: Path
    store: Store
    cluster: LocalCluster

    @property
    def has_own_networks(self) -> bool:
        return self.cluster.networks is not None

    def rayloom(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        return subprocess.run(
            [sys.executable, "-m", "rayloom", *arguments],
            cwd=self.folder,
            env=kept | {"RAYLOOM_CACHE": str(self.folder / "cache"), "RAYLOOM_STORE": self.store.uri} | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=ENDS_WITHIN_SECONDS,
        )

    def submit(self, name: str) -> None:
        """A training job of two workers, which begins some time after this returns."""
        spec = small_spec(
            name=name,
            num_steps=NUM_STEPS,
            global_batch_tokens=SEQUENCES_PER_STEP * LENGTH,
            workers=WORKERS,
            checkpoints={"every_steps": EVERY_STEPS},
        )
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
        ended = self.rayloom("submit", f"{name}.yaml")
        assert ended.returncode == 0, ended.stderr

    def wait_for_step(self, name: str, step: int) -> int:
        """The step that the job has come to, at least the one asked for."""
        until = time.monotonic() + ENDS_WITHIN_SECONDS
        while time.monotonic() < until:
            reached = self.reached(name)
            if reached >= step:
                return reached
            if self.job(name).is_finished:
                break
            time.sleep(0.05)
        raise AssertionError(f"{name} did not come to step {step}: {self.rayloom('jobs', 'logs', name).stdout}")

    def reached(self, name: str) -> int:
        """The newest step in the log in the store, which gets there with each checkpoint if disks are not shared."""
        self.store.filesystem.invalidate_cache()
        for log in self.store.filesystem.glob(f"{self.store.root}/{name}/*/.work/metrics.jsonl"):
            (self.folder / "reached.jsonl").write_bytes(self.store.filesystem.cat_file(log))
            return max((e["step"] for e in read_log(self.folder / "reached.jsonl") if e["event"] == "step"), default=0)
        return 0

    def job(self, name: str) -> ClusterJob:
        return self.cluster.api().find(name)

    def ended(self, name: str) -> ClusterJob:
        """The job when it has ended."""
        until = time.monotonic() + ENDS_WITHIN_SECONDS
        while not (job := self.job(name)).is_finished:
            assert time.monotonic() < until, self.rayloom("jobs", "logs", name).stdout
            time.sleep(0.3)
        return job

    def artifact(self, name: str) -> Artifact:
        return self.store.open(self.store.resolve(name))

    def losses(self, name: str) -> list[tuple[int, float]]:
        log = read_log(self.artifact(name).path / "metrics.jsonl")
        return [(event["step"], event["loss"]) for event in log if event["event"] == "step"]

    def processes(self, title: str) -> Iterator[tuple[int, psutil.Process]]:
        """The cluster's processes whose command has these words, each with its node's number; 0 is the head."""
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if title in " ".join(process.info["cmdline"] or ()):
                    session = os.getsid(process.pid)
                    if session in self.cluster.sessions:
                        yield self.cluster.sessions.index(session), process

    def drivers(self, name: str) -> Iterator[psutil.Process]:
        """The processes of a submitted job's command; Ray gives them a session of their own."""
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.Error):
                is_command = f"rayloom run {name}.yaml" in " ".join(process.info["cmdline"] or ())
                if is_command and process.environ().get("RAYLOOM_STORE") == self.store.uri:
                    yield process

    def node_that_trains(self) -> int:
        """A worker node, never the head: where the head dies, so does the control store of this cluster."""
        nodes = {node for node, _ in self.processes("RayTrainWorker")}
        assert len(nodes) == 2, f"each worker should have a node to itself, and they have {nodes}"
        return max(nodes)

    def cut_off(self, node: int, seconds: float) -> None:
        """No word comes from this node or to it. Without networks to cut, its processes stand still instead."""
        networks = self.cluster.networks
        if networks is not None:
            networks.cut(node)
            time.sleep(seconds)
            networks.heal(node)
        else:
            os.killpg(self.cluster.sessions[node], signal.SIGSTOP)
            time.sleep(seconds)
            os.killpg(self.cluster.sessions[node], signal.SIGCONT)

    def mend(self) -> None:
        """Starts the nodes again that a fault has ended."""
        alive = {node.labels["rayloom.io/node"] for node in self.cluster.api().nodes()}
        for number in range(1, NUM_NODES):
            session = self.cluster.sessions[number]
            if f"worker-{number}" not in alive or not is_alive(session):
                end([session])
                self.cluster = start_again(self.cluster, number)


@contextlib.contextmanager
def training_cluster(folder: Path, port: int, dashboard_port: int) -> Iterator[TrainingCluster]:
    """Nothing of it is left afterwards."""
    networks = networks_if_allowed(NUM_NODES)
    shape = Shape(NUM_NODES, 2, port, dashboard_port, head_cpus=3, own_disks=networks is not None)
    with own_cache(folder / "cache"), pytest.MonkeyPatch.context() as patch:
        try:
            cluster = up(shape, networks)
            store = Store(str(folder / "store")) if cluster.bucket is None else store_of(cluster.bucket, patch)
            made_up_corpus(store)
            yield TrainingCluster(folder, store, cluster)
        finally:
            down()


@contextlib.contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """Inside, a local cluster is known to this process only, and beside others of this machine."""
    before = os.environ.get("RAYLOOM_CACHE")
    os.environ["RAYLOOM_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["RAYLOOM_CACHE"]
        if before is not None:
            os.environ["RAYLOOM_CACHE"] = before


def store_of(bucket: Bucket, patch: pytest.MonkeyPatch) -> Store:
    """The store in a bucket, whose settings this process and its commands then have."""
    for name, value in bucket.settings.items():
        patch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # instances keep the endpoint of an earlier test
    return Store(bucket.settings["RAYLOOM_STORE"])


def networks_if_allowed(num_nodes: int) -> own_networks.OwnNetworks | None:
    try:
        return own_networks.make(num_nodes)
    except ResourceError:
        return None
