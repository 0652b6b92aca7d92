"""Training on nodes that share a store and no disk: checkpoints, log, best weights and the result survive any node."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.training_jobs import LENGTH, ONE, made_up_corpus, small_job
from support.workers import Training, on_own_disk, run_on_workers

from rayloom.artifacts.store import Store
from rayloom.train.loop import loop
from rayloom.train.loop.run_log import read_log

EARLY = {"early_stopping": {"patience": 3}, "evaluate_every_steps": 2, "checkpoints": {"every_steps": 3, "keep": 2}}


class KilledError(Exception):
    pass


def store_at(folder: Path) -> str:
    """Not a folder that workers may use as one, although the files lie in one: fsspec does not call it local."""
    return f"dir::file://{folder / 'bucket'}"


def losses(file: Path) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in read_log(file) if event["event"] == "step"}


def in_store(folder: Path) -> Path:
    """The copy of the work folder (fsspec's `dir` repeats the path below itself)."""
    return folder / "bucket" / str(folder / "bucket").lstrip("/") / "small" / "0" / ".work"


@pytest.mark.parametrize("changes", [{"checkpoints": {"every_steps": 3, "keep": 2}}, EARLY], ids=["plain", "best"])
def test_another_node_goes_on_where_the_lost_one_was(tmp_path: Path, changes: dict[str, Any]) -> None:
    loop.train(small_job(tmp_path / "whole", **changes), ONE, lambda event: None)
    job, said = small_job(tmp_path / "lost", **changes), []

    def dies(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 8:
            raise KilledError

    with pytest.raises(KilledError):
        loop.train(on_own_disk(job, store_at(tmp_path), tmp_path / "first node"), ONE, dies)
    shutil.rmtree(tmp_path / "first node")
    other = on_own_disk(job, store_at(tmp_path), tmp_path / "second node")
    loop.train(other, ONE, lambda event: said.append(event.get("text")))
    assert {"continuing from step 6 of 12", "continuing from step 3 of 12"} & set(said)
    assert losses(other.log) == losses(tmp_path / "whole" / "work" / "metrics.jsonl")
    weights = "result/model.safetensors"
    assert (in_store(tmp_path) / weights).read_bytes() == (
        tmp_path / "whole" / "out" / "model.safetensors"
    ).read_bytes()
    entries = json.loads((in_store(tmp_path) / "finished").read_text())
    assert "model.safetensors" in {entry["path"] for entry in entries}
    assert len(list((in_store(tmp_path) / "checkpoints").iterdir())) == 2


def test_workers_with_disks_of_their_own_may_change_in_number(tmp_path: Path) -> None:
    changes = {"checkpoints": {"every_steps": 2, "keep": 1}, "sharding": {"zero_stage": 2}}
    store = store_at(tmp_path)
    for name in ("whole", "lost"):
        small_job(tmp_path / name, **changes)  # the workers find its rows
    run_on_workers(2, [Training(tmp_path / "whole", changes), Training(tmp_path / "lost", changes, 7, store)])
    for node in (tmp_path / "lost").glob("node-*"):
        shutil.rmtree(node)
    run_on_workers(2, [Training(tmp_path / "lost", changes, 5, store)])
    shutil.rmtree(tmp_path / "lost" / "node-1")
    run_on_workers(1, [Training(tmp_path / "lost", changes, None, store)])
    whole = losses(tmp_path / "whole" / "work" / "metrics.jsonl")
    lost = losses(in_store(tmp_path) / "metrics.jsonl")
    assert list(lost) == list(whole)
    assert list(lost.values()) == pytest.approx(list(whole.values()), rel=1e-3)
    assert [lost[step] for step in range(1, 9)] == [whole[step] for step in range(1, 9)], "equal at equal world size"


def test_a_streamed_corpus_is_gone_on_with_where_it_was(tmp_path: Path) -> None:
    """Each worker fetches shards for itself, and those of the killed run are gone."""
    made_up_corpus(Store(store_at(tmp_path)), "sharded", num_documents=640, shard_tokens=400)
    changes = {"num_steps": 40, "global_batch_tokens": 8 * LENGTH, "checkpoints": {"every_steps": 10}}
    corpus, runs = (store_at(tmp_path), "sharded"), []
    for name, dies in (("whole", None), ("lost", 25), ("lost", None)):
        runs.append(Training(tmp_path / name, changes, dies, corpus=corpus))
    run_on_workers(2, runs)
    whole, lost = (losses(tmp_path / name / "work" / "metrics.jsonl") for name in ("whole", "lost"))
    assert len(whole) == 40
    assert lost == whole
    assert list((tmp_path / "whole").glob("node-*/artifacts/*.streamed/train/index.json"))
    assert not list(tmp_path.glob("*/node-*/artifacts/**/train/*.npy"))


def test_a_damaged_copy_is_passed_over(tmp_path: Path) -> None:
    changes = {"checkpoints": {"every_steps": 2, "keep": 3}}
    job, said = small_job(tmp_path, **changes), []
    first = on_own_disk(job, store_at(tmp_path), tmp_path / "first")
    loop.train(first, ONE, lambda event: None)
    newest = sorted((in_store(tmp_path) / "checkpoints").iterdir())[-1] / "rank-00000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    for name in ("finished", "result"):
        assert (in_store(tmp_path) / name).exists()
    other = on_own_disk(job, store_at(tmp_path), tmp_path / "second")
    loop.train(other, ONE, lambda event: said.append(event.get("text")))
    assert any("is damaged" in str(text) for text in said)
    assert losses(other.log) == losses(first.log)


def test_the_copy_travels_as_an_address(tmp_path: Path) -> None:
    import pickle

    copy = on_own_disk(small_job(tmp_path), store_at(tmp_path), tmp_path / "disk").copy
    assert copy is not None
    again = pickle.loads(pickle.dumps(copy))  # noqa: S301 - made here
    assert again.root == copy.root
    assert again.store.cache == Store(store_at(tmp_path)).cache, "the other node's own"
