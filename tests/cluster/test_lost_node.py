"""A worker node dies in mid-training: the job goes on with what is left, and its losses are the undisturbed run's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from training_jobs_for_tests import small_spec, write_rows, write_tokenizer

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.manifest import Outcome
from rayloom.artifacts.store import Store
from rayloom.specs.base import JobSpec
from rayloom.specs.clean import CleanSpec
from rayloom.submit.local_cluster import LocalCluster, kill_node, read_state
from rayloom.text.tokenizer_digest import tokenizer_digest
from rayloom.train.log import read_log

pytestmark = pytest.mark.full
PORT, DASHBOARD_PORT = 6411, 8279
NUM_STEPS, EVERY_STEPS, KILLED_AT_STEP = 400, 20, 50
# Two CPUs a worker on nodes of two CPUs: each worker has a node to itself, and a third node stands by.
WORKERS = {"num_workers": 2, "cpus_per_worker": 2}
CORPUS = {
    "kind": "clean",
    "name": "made-up",
    "sources": [{"name": "made-up", "dataset": "./rows", "format": {"type": "jsonl"}, "domain": "made-up"}],
    "output": {"type": "tokens", "tokenizer": {"type": "train"}},
}


@dataclass(frozen=True)
class Place:
    """A cluster of three nodes, a store, and how to call a command on them."""

    folder: Path
    environment: dict[str, str]
    cluster: LocalCluster
    store: Store

    def job(self, name: str) -> list[str]:
        spec = small_spec(name=name, num_steps=NUM_STEPS, workers=WORKERS, checkpoints={"every_steps": EVERY_STEPS})
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
        return [sys.executable, "-m", "rayloom", "run", f"{name}.yaml"]

    def losses(self, name: str) -> list[tuple[int, float]]:
        artifact = self.store.open(self.store.resolve(name))
        return [(e["step"], e["loss"]) for e in read_log(artifact.path / "metrics.jsonl") if e["event"] == "step"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("lost")
    store = Store(str(folder / "store"))
    build(ResolvedJob(CleanSpec.model_validate(CORPUS), 1, {}, folder), store, _corpus)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY")}
    kept |= {"RAYLOOM_CACHE": str(folder / "cache"), "RAYLOOM_STORE": store.root}
    ports = ("--port", str(PORT), "--dashboard-port", str(DASHBOARD_PORT))
    up = [sys.executable, "-m", "rayloom", "cluster", "up", "--nodes", "3", "--cpus-per-node", "2", *ports]
    subprocess.run(up, env=kept, check=True)
    cluster = read_state(folder / "cache" / "local-cluster.json")
    assert cluster is not None
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{cluster.folder}/token"}
    try:
        yield Place(folder, {**kept, **token, "RAY_ADDRESS": cluster.gcs_address}, cluster, store)
    finally:
        subprocess.run([sys.executable, "-m", "rayloom", "cluster", "down"], env=kept, check=True)


def _corpus(_: JobSpec, made: Build) -> Outcome:
    from transformers import AutoTokenizer

    write_tokenizer(made.directory / "tokenizer")
    digest = tokenizer_digest(AutoTokenizer.from_pretrained(made.directory / "tokenizer"))
    write_rows(made.directory / "train", 400, seed=1, digest=digest)
    write_rows(made.directory / "heldout", 20, seed=2, digest=digest)
    return Outcome("corpus")


def _nodes_that_train(cluster: LocalCluster) -> set[int]:
    """Numbers of the nodes on which a worker of Ray Train runs; 0 is the head."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        try:
            if "RayTrainWorker" in " ".join(process.info["cmdline"] or ()):
                session = os.getsid(process.pid)
                found |= {number for number, known in enumerate(cluster.sessions) if known == session}
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _wait_for_step(place: Place, name: str, step: int, running: subprocess.Popen[str]) -> None:
    while running.poll() is None:
        logs = list((Path(place.store.root) / name).glob("*/.work/metrics.jsonl"))
        if any(e["event"] == "step" and e["step"] >= step for log in logs for e in read_log(log)):
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} ended before step {step}: {running.communicate()[1]}")


def test_a_lost_node_costs_at_most_one_checkpoints_interval_and_changes_no_loss(place: Place) -> None:
    subprocess.run(place.job("whole"), cwd=place.folder, env=place.environment, check=True)
    running = subprocess.Popen(
        place.job("bereaved"), cwd=place.folder, env=place.environment, stderr=subprocess.PIPE, text=True
    )
    _wait_for_step(place, "bereaved", KILLED_AT_STEP, running)
    used = _nodes_that_train(place.cluster)
    assert len(used) == 2, "each worker has a node to itself"
    kill_node(place.cluster, max(used))
    said = running.communicate()[1]
    assert running.returncode == 0, said
    assert place.losses("bereaved") == place.losses("whole")
    (resumed_at,) = place.store.resolve("bereaved").metrics["resumed_at_steps"]
    assert resumed_at >= KILLED_AT_STEP - EVERY_STEPS
