"""Cleaning, training and judging on two nodes that share nothing but a bucket, against the same work on one machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import Fleet, fleet
from support.fleet_jobs import CLEAN, PRETRAINED, SMALL_PIPELINE, losses, opened
from support.passes import cleaned
from support.training_jobs import ONE, made_up_corpus

from rayloom.artifacts.store import Store
from rayloom.train.loop.loop import train
from rayloom.train.loop.run_log import read_log
from rayloom.train.prepare import job_of

# The cluster's nodes outlive the call that started them, as they should.
NODES_LIVE_ON = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
pytestmark = NODES_LIVE_ON
PORT, DASHBOARD_PORT = 6443, 8303


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("own-disks"), PORT, DASHBOARD_PORT) as made:
        if made is None:
            pytest.skip("this machine does not allow networks for nodes")
        yield made


def test_cleaning_training_and_judging_need_no_common_disk(two_nodes: Fleet, tmp_path: Path) -> None:
    """Against the same work without Ray and without a bucket."""
    two_nodes.submitted(SMALL_PIPELINE)
    pages = {"sources": [CLEAN["sources"][0] | {"dataset": str(two_nodes.folder / "jobs" / "pages")}]}
    clean = {name: value for name, value in CLEAN.items() if name not in ("kind", "name", "chunk_bytes")}
    expected = cleaned(tmp_path, clean | pages, num_chunk_bytes=CLEAN["chunk_bytes"])
    assert opened(two_nodes.store, "cleaned").manifest.digest == expected.manifest.digest
    local = Store(str(tmp_path / "store"))
    parents = {"data.corpus": made_up_corpus(local)}
    (tmp_path / "work").mkdir()
    job = job_of(PRETRAINED, parents, tmp_path / "work", tmp_path / "out")
    train(job, ONE, lambda event: None)
    alone = [event["loss"] for event in read_log(job.log) if event["event"] == "step"]
    # Two workers add in another order.
    assert [loss for _, loss in losses(two_nodes.store, "pretrained")] == pytest.approx(alone, rel=1e-4)
    assert opened(two_nodes.store, "judged").manifest.metrics["checks"]
    assert {one: count for one, count in two_nodes.fetches().items() if count > 1} == {}
