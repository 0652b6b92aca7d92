"""Answers by vLLM's engine on Ray: its ids are trained on, it computes what the trainer computes, and a lost engine and
a lost trainer change nothing."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
import yaml
from support.policies import of, same_training, write_engine_model, write_prompts_file, write_turns_job
from support.processes import processes_below

from rayloom.artifacts.store import Artifact, Store
from rayloom.dispatch import load_job, run
from rayloom.train.loop.run_log import read_log

NUM_STEPS = 8


def strike_after_first_step(root: Path) -> threading.Thread:
    """Kills the engine, and the trainer with it, once there is a checkpoint behind the first step."""

    def strike() -> None:
        while not list(root.glob("*/.work/checkpoints/step-00000001/checkpoint.json")):
            if done.wait(0.02):
                return
        for title in ("ray::AnswerEngine", "RayTrainWorker"):
            for process in processes_below(title):
                process.send_signal(signal.SIGKILL)

    done = threading.Event()
    thread = threading.Thread(target=strike, daemon=True)
    thread.ended = done.set  # type: ignore[attr-defined]
    thread.start()
    return thread


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store, Artifact]:
    """A run that nothing disturbs, its folder and its store."""
    folder = tmp_path_factory.mktemp("rewarded")
    write_engine_model(folder / "base")
    write_prompts_file(folder / "data")
    store = Store(str(folder / "store"))
    return folder, store, run(load_job(write_turns_job(folder, "whole", num_steps=NUM_STEPS)), store)[0]


def test_the_engine_computes_what_the_trainer_computes(whole: tuple[Path, Store, Artifact]) -> None:
    events = list(read_log(whole[2].path / "metrics.jsonl"))
    assert max(event["mismatch"] for event in of(events, "step")) < 1e-4
    assert [event["version"] for event in of(events, "rollout")] == list(range(NUM_STEPS))
    assert of(events, "rollout")[0]["turns"] > 1.2  # later it has learned not to end its turns
    assert whole[2].manifest.content == "adapter"
    assert {"before", "after"} <= set(whole[2].manifest.metrics["heldout"]["heldout"])


@pytest.mark.full
def test_a_search_runs_trials_of_a_policy_whose_engines_are_kept(whole: tuple[Path, Store, Artifact]) -> None:
    folder, store, _ = whole
    search = {
        "kind": "tune", "name": "search", "train": "./whole.yaml", "set": ["num_steps=2"],
        "space": {"policy.clip_above": {"type": "choice", "values": [0.2, 0.28]}},
        "searcher": {"type": "grid"}, "scheduler": {"type": "none"}, "objectives": [{"metric": "heldout_score"}],
        "resources": {"max_concurrent_trials": 1},
    }  # fmt: skip
    (folder / "search.yaml").write_text(yaml.safe_dump(search))
    found = run(load_job(folder / "search.yaml"), store)[0]
    assert found.manifest.content == "adapter"
    logs = [list(read_log(file)) for file in sorted((found.path / "trials").glob("*.jsonl"))]
    assert [len(of(events, "step")) for events in logs] == [2, 2]
    assert max(event["mismatch"] for events in logs for event in of(events, "step")) < 1e-4


@pytest.mark.full
def test_a_lost_engine_and_a_lost_trainer_change_nothing(
    whole: tuple[Path, Store, Artifact], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, store, undisturbed = whole
    striker = strike_after_first_step(Path(store.root) / "struck")
    struck = run(load_job(write_turns_job(folder, "struck", num_steps=NUM_STEPS)), store)[0]
    striker.ended()  # type: ignore[attr-defined]
    assert "a worker died" in capfd.readouterr().err
    expected, found = (list(read_log(artifact.path / "metrics.jsonl")) for artifact in (undisturbed, struck))
    assert same_training(found) == same_training(expected)
