"""Every kind of job on three nodes that share nothing but a bucket, against the same jobs on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fleet import ENDS_WITHIN_SECONDS, Fleet, fleet
from support.fleet_jobs import PIPELINE, losses, opened, results
from support.training_jobs import LENGTH, made_up_corpus, small_spec

from rayloom.artifacts.store import Store

# The cluster's nodes outlive the call that started them, as they should.
NODES_LIVE_ON = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
pytestmark = [NODES_LIVE_ON, pytest.mark.full]
NUM_NODES, PORT, DASHBOARD_PORT = 3, 6444, 8304
BY_THREE = small_spec(
    name="by-three",
    workers={"num_workers": NUM_NODES, "cpus_per_worker": 1},
    global_batch_tokens=2 * NUM_NODES * LENGTH,
    sharding={"zero_stage": 2},
)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("own-disks"), PORT, DASHBOARD_PORT, NUM_NODES) as made:
        if made is None:
            pytest.skip("this machine does not allow networks for nodes")
        yield made


@pytest.fixture(scope="module")
def one_machine(nodes: Fleet) -> Store:
    store = Store(str(nodes.folder / "one-machine"))
    made_up_corpus(store)
    return store


def test_all_kinds_give_what_they_give_on_one_machine(nodes: Fleet, one_machine: Store) -> None:
    nodes.submitted(PIPELINE)
    alone = nodes.rayloom("run", f"{PIPELINE}.yaml", RAYLOOM_STORE=one_machine.root)
    assert alone.returncode == 0, alone.stderr
    found, expected = results(nodes.store), results(one_machine)
    for name, value in expected.items():
        assert found[name] == value, name


def test_three_workers_give_what_three_processes_give(nodes: Fleet, one_machine: Store) -> None:
    file = nodes.folder / "jobs" / f"{BY_THREE.name}.yaml"
    file.write_text(yaml.safe_dump(BY_THREE.model_dump(mode="json", exclude_none=True)))
    nodes.submitted(BY_THREE.name)
    torchrun = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(NUM_NODES),
        "-m",
        "rayloom.train",
    )
    environment = {**os.environ, "RAYLOOM_STORE": one_machine.root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *torchrun, str(file)]
    subprocess.run(command, env=environment, check=True, timeout=ENDS_WITHIN_SECONDS)
    stores = (nodes.store, one_machine)
    assert losses(nodes.store, BY_THREE.name) == losses(one_machine, BY_THREE.name)
    weights = [{file.path: file.sha256 for file in opened(store, BY_THREE.name).manifest.files} for store in stores]
    assert weights[0]["model.safetensors"] == weights[1]["model.safetensors"]


def test_the_workers_trained_on_all_nodes_and_each_fetched_an_artifact_once(nodes: Fleet) -> None:
    """Runs after the trainings."""
    addresses = {node.address for node in nodes.cluster.api().nodes()}
    corpus = f"made-up/{nodes.store.resolve('made-up').version}/train/00000.tokens.npy"
    fetches = nodes.fetches()
    assert {node for node, path in fetches if path == corpus} == addresses, fetches
    assert {one: count for one, count in fetches.items() if count > 1} == {}


def test_what_nodes_share_is_only_the_bucket(nodes: Fleet) -> None:
    state: dict[str, Any] = json.loads((nodes.folder / "cache" / "local-cluster.json").read_text())
    disks = [Path(state["folder"]) / f"disk-{number}" for number in range(NUM_NODES)]
    caches = [{path.name for path in disk.glob("rayloom-cl-*/cache/rayloom/*")} for disk in disks]
    assert all("artifacts" in names for names in caches), caches
