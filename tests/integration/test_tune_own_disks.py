"""Trials on nodes that share a store and no disk: they go on on any node, and copy another's weights from the store."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.searches import tune_spec
from support.training_jobs import made_up_corpus, small_spec

from rayloom.artifacts.store import Store
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.train.loop.run_log import read_log
from rayloom.tune.search import DonorCheckpoint, TrialRun
from rayloom.tune.trials.trial import run_trial
from rayloom.tune.trials.trial_files import TrialFiles


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialFiles:
    """The files of a search as its driver has them; the store's lie in a folder that fsspec does not call local."""
    monkeypatch.setenv("RAYLOOM_CACHE", str(tmp_path / "driver"))
    store = Store(f"dir::file://{tmp_path / 'bucket'}")
    made_up_corpus(store)
    train = small_spec(num_steps=12, evaluate_every_steps=4, checkpoints={"every_steps": 4})
    space = {"learning_rate": {"type": "loguniform", "low": 1e-3, "high": 1e-1}}
    spec = tune_spec(train=train.model_dump(mode="json"), space=space, scheduler={"type": "none"})
    copy = WorkCopy(store, "search", "0")
    copy.folder.mkdir(parents=True)
    return TrialFiles(spec, {"train.data.corpus": store.open(store.resolve("made-up"))}, copy.folder, copy)


def on_node(disk: Path, files: TrialFiles, run: TrialRun, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the trial reports from a node with this disk, to which it comes as Ray sends it."""
    monkeypatch.setenv("RAYLOOM_CACHE", str(disk))
    said: list[dict[str, Any]] = []
    run_trial(pickle.loads(pickle.dumps(files.task(run, bool))), said.append)  # noqa: S301 - made here
    assert str(disk.parent / "driver") not in str(said)
    return said


def losses(files: TrialFiles, path: str) -> dict[int, float]:
    assert files.copy is not None
    files.copy.fetch(path)
    return {e["step"]: e["loss"] for e in read_log(files.folder / path) if e["event"] == "step"}


def test_a_trial_goes_on_on_another_node_and_another_trial_copies_its_weights(
    files: TrialFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"learning_rate": 0.01}
    undisturbed = on_node(tmp_path / "first", files, TrialRun(0, values), monkeypatch)
    assert undisturbed[-1]["message"] == "finished"
    assert on_node(tmp_path / "first", files, TrialRun(1, values, until_step=4), monkeypatch)[-1] == {
        "message": "paused", "step": 4,
    }  # fmt: skip
    shutil.rmtree(tmp_path / "first")
    resumed = on_node(tmp_path / "second", files, TrialRun(1, values), monkeypatch)
    assert resumed[-1] == undisturbed[-1] | {"metrics": resumed[-1]["metrics"]}
    assert losses(files, "trials/0001/0/metrics.jsonl") == losses(files, "trials/0000/0/metrics.jsonl")
    copied = TrialRun(2, values, segment=1, source=DonorCheckpoint(1, 0, 8))
    ended = on_node(tmp_path / "third", files, copied, monkeypatch)
    assert ended[-1]["message"] == "finished"
    assert list(losses(files, "trials/0002/1/metrics.jsonl")) == [9, 10, 11, 12]
    left = [path for path in (tmp_path / "third").rglob("*.safetensors") if "trials" in str(path)]
    assert left == [path for path in left if "trials/0001" in str(path)], "a node keeps nothing of a trial that ended"


def test_what_is_removed_is_gone_from_the_store(
    files: TrialFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    assert files.copy is not None
    for number in (0, 1):
        on_node(tmp_path / "node", files, TrialRun(number, {"learning_rate": 0.01}), monkeypatch)
    ended: list[Any] = [SimpleNamespace(number=number, copies=()) for number in (0, 1)]
    files.keep_only([1], ended)
    assert [name for name in files.copy.sizes("trials/0000") if name.endswith(".safetensors")] == []
    assert [name for name in files.copy.sizes("trials/0001") if name.endswith("result/model.safetensors")]
