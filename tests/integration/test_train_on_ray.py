"""Training jobs on Ray: killed commands, dead workers, and what a person is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.models import write_model
from support.processes import processes_below
from support.training_jobs import made_up_corpus, small_spec

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job
from rayloom.dispatch import run as run_job
from rayloom.errors import INTERRUPTED_EXIT_CODE, InputError, QualityError
from rayloom.train.loop.run_log import read_log

NUM_STEPS = 120


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a small corpus of made-up rows."""
    store = Store(str(tmp_path_factory.mktemp("train-store")))
    made_up_corpus(store)
    return store


def job_file(folder: Path, name: str, **changes: Any) -> Path:
    spec = small_spec(**({"name": name, "num_steps": NUM_STEPS, "checkpoints": {"every_steps": 10}} | changes))
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
    return file


TWO_WORKERS = {"workers": {"num_workers": 2}, "sharding": {"zero_stage": 2}, "precision": "bf16"}


def step_losses(artifact: Artifact) -> list[tuple[int, float]]:
    return [(e["step"], e["loss"]) for e in read_log(artifact.path / "metrics.jsonl") if e["event"] == "step"]


def wait_for_step(store: Store, name: str, step: int, is_alive: Callable[[], bool]) -> None:
    """Returns once the run's log has the step and a checkpoint counts."""
    root = Path(store.root) / name
    while is_alive():
        logs = list(root.glob("*/.work/metrics.jsonl"))
        is_there = any(e["event"] == "step" and e["step"] >= step for log in logs for e in read_log(log))
        if is_there and list(root.glob("*/.work/checkpoints/*/checkpoint.json")):
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} ended before step {step}")


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The run that nothing disturbs."""
    return run_job(load_job(job_file(tmp_path_factory.mktemp("jobs"), "whole", **TWO_WORKERS)), store)[0]


def test_a_killed_command_continues_and_gives_the_same_losses(
    store: Store, whole: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = job_file(tmp_path, "killed", **TWO_WORKERS)
    running = started(file, store)
    wait_for_step(store, "killed", 40, lambda: running.poll() is None)
    running.send_signal(signal.SIGKILL)
    running.wait()
    artifact, was_made = run_job(load_job(file), store)
    said = capfd.readouterr().err
    assert was_made
    assert f"of {NUM_STEPS}" in next(line for line in said.splitlines() if "continuing from step" in line)
    assert step_losses(artifact) == step_losses(whole)
    assert artifact.manifest.metrics["heldout"] == whole.manifest.metrics["heldout"]
    assert artifact.manifest.metrics["resumed_at_steps"]


def test_a_command_that_is_told_to_end_saves_a_checkpoint_first(store: Store, whole: Artifact, tmp_path: Path) -> None:
    """By SIGTERM, as `rayloom jobs stop`, Kubernetes and systemd do."""
    file = job_file(tmp_path, "told", **TWO_WORKERS)
    running = started(file, store)
    wait_for_step(store, "told", 40, lambda: running.poll() is None)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == INTERRUPTED_EXIT_CODE
    (log,) = Path(store.root).glob("told/*/.work/metrics.jsonl")
    reached = max(e["step"] for e in read_log(log) if e["event"] == "step")
    artifact, _ = run_job(load_job(file), store)
    assert artifact.manifest.metrics["resumed_at_steps"] == [reached]
    assert step_losses(artifact) == step_losses(whole)


def started(file: Path, store: Store) -> subprocess.Popen[bytes]:
    """The command `rayloom run`."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "rayloom", "run", str(file)]
    return subprocess.Popen(command, env=environment | {"RAYLOOM_STORE": store.root}, stderr=subprocess.DEVNULL)


def test_a_dead_worker_is_replaced_and_the_losses_are_the_same(
    store: Store, whole: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = load_job(job_file(tmp_path, "bereaved", **TWO_WORKERS))
    made: list[Artifact] = []
    running = threading.Thread(target=lambda: made.append(run_job(job, store)[0]))
    running.start()
    wait_for_step(store, "bereaved", 30, running.is_alive)
    assert processes_below("TrainController")
    # Each of these would take 3 CPU seconds to start, and have nothing to do.
    for unused in ("DatasetManager", "PlacementGroupCleaner", "PreemptionWatcher"):
        assert not processes_below(unused)
    os.kill(processes_below("RayTrainWorker")[-1].pid, signal.SIGKILL)
    running.join()
    assert "a worker died; start 2 of 4" in capfd.readouterr().err
    assert step_losses(made[0]) == step_losses(whole)


def test_fewer_workers_than_wished_train_where_the_spec_allows_it(
    store: Store, whole: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """More workers are asked for than this machine has cores; those that there are share the work."""
    changes = TWO_WORKERS | {"workers": {"num_workers": 64, "min_workers": 1}, "global_batch_tokens": 64 * 2 * 16}
    artifact = run_job(load_job(job_file(tmp_path, "elastic", **(changes | {"num_steps": 10}))), store)[0]
    assert "starting 64 workers (1 at least)" in capfd.readouterr().err
    (device,) = [e for e in read_log(artifact.path / "metrics.jsonl") if e["event"] == "device"]
    assert 1 <= device["num_workers"] < 64
    assert 0 < device["start_seconds"] < 600
    assert len(step_losses(artifact)) == 10


def test_pretraining_says_what_counting_alone_reaches(whole: Artifact) -> None:
    metrics = whole.manifest.metrics
    unigram, bigram = (metrics["baselines"][name] for name in ("unigram_perplexity", "bigram_perplexity"))
    assert metrics["heldout"]["heldout"]["after"]["perplexity"] < unigram / 2
    assert bigram < unigram
    assert f"unigram {unigram:,.0f}, bigram {bigram:,.0f}" in whole.manifest.headline


def test_a_loss_that_is_not_a_number_stops_with_the_rows(store: Store, tmp_path: Path) -> None:
    file = job_file(tmp_path, "exploding", learning_rate=1e30, faults={"max_skipped_steps": 0, "max_rollbacks": 0})
    with pytest.raises(QualityError, match=r"no usable loss or gradient .*source:row"):
        run_job(load_job(file), store)
    assert not store.versions("exploding")


def test_shards_of_another_tokenizer_are_refused_before_anything_starts(store: Store, tmp_path: Path) -> None:
    write_model(tmp_path / "other")
    with pytest.raises(InputError, match="another tokenizer than the model's"):
        run_job(load_job(job_file(tmp_path, "foreign", architecture=None, base="./other")), store)


def test_a_base_that_is_not_a_model_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no model")
    with pytest.raises(InputError, match=r"config\.json"):
        run_job(load_job(job_file(tmp_path, "baseless", architecture=None, base="./notes")), store)
