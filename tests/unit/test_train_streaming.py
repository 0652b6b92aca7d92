"""Streamed corpora: an order in which a worker reads few shards at a time, and shards that come and go on its disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.training_jobs import LENGTH, made_up_corpus, small_spec, streamed_job

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError, ResourceError
from rayloom.score.parallel.axis import Axis
from rayloom.text.packed.shards import TokenShards
from rayloom.train.loop.batch_feed import micro_batches
from rayloom.train.loop.run_state import rows_of
from rayloom.train.plan import plan
from rayloom.train.streaming.lane_order import SHARDS_HELD_A_LANE, LaneOrder, lanes_for
from rayloom.train.streaming.streamed_rows import StreamedRows, streamed_corpus

NUM_SHARDS = 32


# -- the order ---------------------------------------------------------------------------------------------------------


@given(
    shards=st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any),
    lanes=st.integers(1, 9),
    lane_rows=st.integers(1, 5),
    seed=st.integers(0, 2**40),
)
def test_an_epoch_holds_every_row_once(shards: list[int], lanes: int, lane_rows: int, seed: int) -> None:
    order = LaneOrder(tuple(shards), lanes, lane_rows, seed)
    rows = order.rows(np.arange(3 * order.num_rows)).reshape(3, -1)
    for epoch in rows:
        assert np.array_equal(np.sort(epoch), np.arange(order.num_rows))


@given(position=st.integers(0, 10**9), seed=st.integers(0, 1000))
def test_a_place_does_not_depend_on_what_else_is_asked(position: int, seed: int) -> None:
    order = LaneOrder((100, 7, 300), 4, 2, seed)
    among = order.rows(np.arange(max(0, position - 50), position + 900))
    assert order.rows(np.asarray([position]))[0] == among[min(position, 50)]


@pytest.mark.parametrize("num_workers", [1, 2, 4, 8])
def test_workers_read_few_shards_twice_and_hold_few(num_workers: int) -> None:
    micro_batch, micro_batches, num_shards, rows_of_shard = 4, 16, 256, 200
    lanes = lanes_for(micro_batches, num_shards)
    order = LaneOrder((rows_of_shard,) * num_shards, lanes, micro_batch, seed=1)
    assert lanes == 16
    places = order.rows(np.arange(order.num_rows)).reshape(-1, micro_batches, micro_batch) // rows_of_shard
    reads = 0
    for worker in range(num_workers):
        mine = places[:, worker::num_workers].reshape(len(places), -1)
        reads += len(np.unique(mine))
        steps = 2 * rows_of_shard // micro_batch
        held = [len(np.unique(mine[begin : begin + steps])) for begin in range(0, len(mine), steps)]
        assert max(held) <= SHARDS_HELD_A_LANE * order.lanes_of_worker(num_workers)
    assert reads <= num_shards + lanes - 1 <= 1.15 * num_shards


def test_steps_mix_shards_and_epochs_and_seeds_differ() -> None:
    order, other = (LaneOrder((50,) * 64, 8, 2, seed) for seed in (0, 1))
    first = order.rows(np.arange(16))
    assert len(set((first // 50).tolist())) == 8, "a step has a row of every lane"
    assert not np.array_equal(first, other.rows(np.arange(16)))
    assert not np.array_equal(first, order.rows(np.arange(64 * 50, 64 * 50 + 16)))
    inside = order.rows(np.arange(800)) % 50
    assert np.abs(np.diff(inside)).mean() > 10, "neighbours in the order are not neighbours in a shard"


def test_few_shards_are_one_lane_and_lanes_divide_a_step() -> None:
    assert [lanes_for(16, shards) for shards in (1, 15, 16, 40, 10_000)] == [1, 1, 2, 4, 16]
    assert lanes_for(12, 80) == 6


# -- shards on the disk ------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """In a folder that fsspec does not call local."""
    monkeypatch.setenv("RAYLOOM_CACHE", str(tmp_path / "maker"))
    store = Store(f"dir::file://{tmp_path / 'bucket'}")
    made = made_up_corpus(store, num_documents=20 * NUM_SHARDS, shard_tokens=400)
    monkeypatch.setenv("RAYLOOM_CACHE", str(tmp_path / "node"))
    store = Store(store.uri)
    return store.open(made.manifest)


def streamed(corpus: Artifact, folder: Path) -> StreamedRows:
    streamed_corpus(corpus, "train", folder)
    return StreamedRows(folder, LENGTH)


def shards_on_disk(corpus: Artifact) -> set[str]:
    return {file.name[:5] for file in (corpus.store.streamed(corpus.manifest).folder / "train").glob("*.npy")}


def test_rows_are_those_of_the_shards_and_few_shards_are_on_the_disk(corpus: Artifact, tmp_path: Path) -> None:
    rows = streamed(corpus, tmp_path / "work")
    assert shards_on_disk(corpus) == set()
    rows.hold_at_most(3)
    files = Store(corpus.store.uri, cache=tmp_path / "reader").open(corpus.manifest).path / "train"
    whole = TokenShards(files, 1)
    begins = np.cumsum([0, *(int(np.load(file, mmap_mode="r").size) for file in sorted(files.glob("*.tokens.npy")))])
    number = 0
    for shard, count in enumerate(rows.rows_of_shards):
        for place in range(count):
            tokens = [int(whole.row(int(begins[shard]) + place * LENGTH + i).tokens[0]) for i in range(LENGTH)]
            assert rows.row(number).tokens.tolist() == tokens
            assert not rows.row(number).trained[0]
            number += 1
        assert len(shards_on_disk(corpus)) <= 3
    assert number == len(rows)
    rows.close()
    assert shards_on_disk(corpus) == set()


def test_what_will_be_wanted_is_fetched_before(corpus: Artifact, tmp_path: Path) -> None:
    rows = streamed(corpus, tmp_path / "work")
    rows.want([0, len(rows) - 1])
    rows.row(0)
    rows.row(len(rows) - 1)
    assert len(shards_on_disk(corpus)) == 2
    rows.close()


def test_a_worker_fetches_the_shards_of_its_own_lanes_only(corpus: Artifact, tmp_path: Path) -> None:
    job = streamed_job(tmp_path, corpus.store.uri, "made-up", micro_batch_sequences=1, num_steps=None, num_epochs=1)
    num_fetched = 0
    for rank in range(2):
        run = rows_of(job, job.spec)
        (rows,) = run.shards
        assert isinstance(rows, StreamedRows)
        assert run.lanes is not None
        rows.hold_at_most(len(rows.rows_of_shards))
        for step in range(run.num_steps - 1):  # in the last step one of them may have nothing to do
            micro_batches(run, step, 1, Axis(rank, 2))
        num_fetched += len(shards_on_disk(corpus))
        rows.close()
    assert num_fetched <= len(rows.rows_of_shards) + run.lanes.num_lanes - 1


def test_a_shard_stays_while_another_process_reads_it(corpus: Artifact, tmp_path: Path) -> None:
    first, second = streamed(corpus, tmp_path / "one"), streamed(corpus, tmp_path / "two")
    first.row(0)
    second.row(0)
    first.close()
    assert shards_on_disk(corpus) == {"00000"}
    second.close()
    assert shards_on_disk(corpus) == set()


def test_what_a_killed_process_left_is_removed(corpus: Artifact, tmp_path: Path) -> None:
    files = corpus.store.streamed(corpus.manifest)
    entry = next(file for file in corpus.manifest.files if file.path.endswith("00003.tokens.npy"))
    import os

    os.close(files.take(entry).mark)  # as the kernel does
    assert shards_on_disk(corpus) == {"00003"}
    streamed(corpus, tmp_path / "work").close()
    assert shards_on_disk(corpus) == set()


def test_the_limit_of_the_cache_is_kept(corpus: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = streamed(corpus, tmp_path / "work")
    folder = corpus.store.streamed(corpus.manifest).folder
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    monkeypatch.setenv("RAYLOOM_CACHE_BYTES", str(there + 100))
    with pytest.raises(ResourceError, match="RAYLOOM_CACHE_BYTES has no room for the part of made-up"):
        rows.row(0)


def test_a_damaged_shard_is_not_trained_on(corpus: Artifact, tmp_path: Path) -> None:
    rows = streamed(corpus, tmp_path / "work")
    place = f"{corpus.store.location('made-up', corpus.manifest.version)}/train/00000.tokens.npy"
    corpus.store.filesystem.pipe_file(place, b"damaged")
    with pytest.raises(InputError, match=r"00000\.tokens\.npy came damaged out of the store"):
        rows.row(0)
    assert shards_on_disk(corpus) == set()


def test_the_plan_says_what_a_worker_holds(corpus: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLOOM_STORE", corpus.store.uri)
    data = {"type": "corpus", "corpus": "artifact:made-up", "streamed": True}
    workers = {"num_workers": 8}
    spec = small_spec(data=data, workers=workers, micro_batch_sequences=1, global_batch_tokens=8 * LENGTH)
    sheet = plan(spec, {"data.corpus": corpus}, tmp_path)
    assert sheet.problems == []
    (said,) = (text for name, text in sheet.facts if name == "streamed")
    num_shards = len(list(Path(tmp_path / "bucket").rglob("train/*.tokens.npy")))
    assert said.startswith(f"{num_shards} shards in 4 lanes; a worker holds 5 at most")
    assert any("8 workers and 4 lanes: each shard is fetched by 2 workers" in warning for warning in sheet.warnings)
    assert shards_on_disk(corpus) == set(), "a plan fetches no shard"


def test_a_streamed_corpus_takes_no_replay() -> None:
    data = {"type": "corpus", "corpus": "artifact:made-up", "streamed": True}
    changes = {"architecture": None, "base": "artifact:base", "replay": {"corpus": "artifact:general"}}
    with pytest.raises(ValidationError, match="mix general text in the clean job"):
        small_spec(data=data, **changes)


def test_of_a_folder_nothing_is_copied(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), cache=tmp_path / "cache")
    rows = streamed(made_up_corpus(store, num_documents=100, shard_tokens=400), tmp_path / "work")
    assert len(rows.row(0).tokens) == LENGTH
    rows.close()
    assert not (tmp_path / "cache").exists()
    assert list((tmp_path / "store" / "made-up").glob("*/train/00000.tokens.npy"))
