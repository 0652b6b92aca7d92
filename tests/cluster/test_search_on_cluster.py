"""A search on a cluster of two nodes of which one is lost: its trial goes on elsewhere from its last checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.searches_on_rows import events, journal_of, running_search, search_file, store_with_corpus, wait_for

from rayloom.submit import local_cluster
from rayloom.submit.local_node import Shape
from rayloom.train.loop.run_log import read_log
from rayloom.tune.results import read_trials

# The cluster's nodes outlive the call that started them, as they should.
NODES_LIVE_ON = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
pytestmark = [pytest.mark.full, NODES_LIVE_ON]
PORT, DASHBOARD_PORT = 6427, 8283
STEPS_BETWEEN_CHECKPOINTS = 4


def test_a_lost_node_costs_a_trial_at_most_one_checkpoint_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_with_corpus(tmp_path / "store")
    train = {"num_steps": 300, "evaluate_every_steps": 2, "checkpoints": {"every_steps": STEPS_BETWEEN_CHECKPOINTS}}
    file = search_file(tmp_path, train=train, budget={"num_trials": 3})
    monkeypatch.setenv("RAYLOOM_CACHE", str(tmp_path / "cache"))
    cluster = local_cluster.up(Shape(2, 1, PORT, DASHBOARD_PORT))
    try:
        running = running_search(store, file, **cluster.environment)
        journal = journal_of(store, "search")
        wait_for(lambda: {e["trial"] for e in events(journal, "report") if e.get("step", 0) >= 10} >= {0, 1})
        known = {event["trial"]: event.get("step", 0) for event in events(journal, "report")}
        local_cluster.kill_node(cluster, 1)
        said, _ = running.communicate(timeout=300)
        assert running.returncode == 0, said
    finally:
        local_cluster.down()
    artifact = store.open(store.resolve("search"))
    trials = read_trials(artifact)
    assert [trial.outcome for trial in trials] == ["finished"] * 3
    assert sorted(trial.crashes for trial in trials) == [0, 0, 1]
    lost = next(trial.number for trial in trials if trial.crashes)
    log = read_log(artifact.path / "trials" / f"{lost:04d}.jsonl")
    resumed_at = next(event["step"] for event in log if event["event"] == "resumed")
    assert resumed_at >= known[lost] - STEPS_BETWEEN_CHECKPOINTS
