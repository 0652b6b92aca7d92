"""The same job by torchrun and by plain Python, where Ray cannot be imported: the same artifact."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_train_on_ray import TWO_WORKERS, job_file, step_losses, store

from rayloom.artifacts.store import Artifact, Store
from rayloom.kinds import KINDS
from rayloom.train.__main__ import STAGE_VERSION

__all__ = ["store"]  # the fixture
SHORT = {"num_steps": 12, "checkpoints": {"every_steps": 6}} | TWO_WORKERS
WITHOUT_RAY = """
import runpy, sys
sys.modules["ray"] = None  # importing it fails
sys.argv = ["rayloom.train", *sys.argv[1:]]
runpy.run_module("rayloom.train", run_name="__main__")
"""


def run(store: Store, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAYLOOM_STORE": store.root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def artifact(store: Store, name: str) -> Artifact:
    return store.open(store.resolve(name))


def test_torchrun_and_plain_python_give_the_same(store: Store, tmp_path: Path) -> None:
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    both = run(store, *torchrun, "-m", "rayloom.train", str(job_file(tmp_path, "by-torchrun", **SHORT)))
    assert both.returncode == 0, both.stderr
    alone = run(store, sys.executable, "-c", WITHOUT_RAY, str(job_file(tmp_path, "by-python", **SHORT)))
    assert alone.returncode == 0, alone.stderr
    losses = [[loss for _, loss in step_losses(artifact(store, name))] for name in ("by-torchrun", "by-python")]
    assert len(losses[0]) == 12
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)
    metrics = artifact(store, "by-torchrun").manifest.metrics
    assert 0 < metrics["model_flops_utilisation"] < 1
    assert metrics["peak_memory_gb"] > 0.05
    again = run(store, *torchrun, "-m", "rayloom.train", str(tmp_path / "by-torchrun.yaml"))
    assert again.returncode == 0, again.stderr


def test_its_results_are_those_of_kind_train() -> None:
    assert KINDS["train"].version == STAGE_VERSION


def test_what_it_cannot_fetch_is_said(store: Store, tmp_path: Path) -> None:
    file = job_file(tmp_path, "from-hub", architecture=None, base="hf://someone/model", num_steps=1)
    said = run(store, sys.executable, "-m", "rayloom.train", str(file))
    assert said.returncode == 3
    assert "base is no artifact, and only `rayloom run` imports" in said.stderr
