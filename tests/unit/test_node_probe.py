"""What a submitted job asks of nodes before it begins: each problem is a sentence that names the node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayloom.artifacts.store import Store
from rayloom.errors import ResourceError
from rayloom.submit.node_probe import NodeAnswer, NodeReport, check_answers, unseen, versions_here, written

HERE = {"Python": "3.11.7", "torch": "2.13.0"}
FINE = NodeReport(HERE, 1000.0, 50 << 30, "/cache")


def answers(**changes: Any) -> list[NodeAnswer]:
    """Two nodes, asked at 999 s and answered at 1001 s; the second has `changes`."""
    return [NodeAnswer("10.0.0.1", 999, 1001, FINE), NodeAnswer("10.0.0.2", 999, 1001, replace(FINE, **changes))]


@pytest.fixture
def remote(tmp_path: Path) -> Store:
    return Store(f"memory://{tmp_path.name}/store", cache=tmp_path / "cache")


def test_what_a_node_wrote_others_read(remote: Store, tmp_path: Path) -> None:
    for store in (remote, Store(str(tmp_path / "folder"))):
        folder = f"{store.root}/.probe"
        reports = [written(store, folder, name) for name in ("a", "b")]
        assert [report.failure for report in reports] == ["", ""]
        found = [NodeAnswer("n", r.time, r.time, replace(r, free_bytes=1 << 40)) for r in reports]
        check_answers(versions_here(), found, store)
        assert unseen(store, folder, ["a", "b"]) == ""
        assert unseen(store, folder, ["a", "lost"]) == "it does not see what other nodes wrote"
        assert unseen(store, f"{folder}-elsewhere", ["a"]) != ""


def test_a_store_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(str(tmp_path / "file"))
    report = written(Store(str(tmp_path / "file")), f"{store.root}/.probe", "a")
    assert "Not a directory" in report.failure


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"failure": "Access is denied: Forbidden"}, "10.0.0.2 cannot write to the store: Access is denied: Forbidden"),
        ({"versions": {"Python": "3.12.1"}}, "10.0.0.2 has other versions: Python 3.12.1 instead of 3.11.7, torch"),
        ({"time": 1301.0}, "10.0.0.2 has a clock that is 300 s off"),
        ({"time": 699.0}, "10.0.0.2 has a clock that is 300 s off"),
        ({"free_bytes": 1000}, "10.0.0.2 has only 0.0 GB free under /cache"),
    ],
    ids=["write", "versions", "fast clock", "slow clock", "full disk"],
)
def test_each_problem_names_the_node(remote: Store, changes: dict[str, Any], said: str) -> None:
    check_answers(HERE, answers(), remote)
    with pytest.raises(ResourceError) as refused:
        check_answers(HERE, answers(**changes), remote)
    assert said in str(refused.value)
    assert "10.0.0.1" not in str(refused.value)
