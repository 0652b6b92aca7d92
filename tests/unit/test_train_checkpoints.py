"""Checkpoints of a run whose store is elsewhere and does not always answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rayloom.artifacts.store import Store
from rayloom.artifacts.work_copy import WorkCopy
from rayloom.train.engines.fragments import ElementRange, Fragment
from rayloom.train.loop.checkpoints import MANIFEST_NAME, Checkpoints
from rayloom.train.process_group import Group
from rayloom.train.state import TrainState


class ConnectTimeoutError(Exception):
    """Named like botocore's."""


def unreachable(*_: Any, **__: Any) -> None:
    raise ConnectTimeoutError("Connect timeout on endpoint URL")


class Run:
    """A run's checkpoints, on one node after the other; what it says goes to `said`."""

    def __init__(self, tmp_path: Path, node: str) -> None:
        store = Store(f"memory://{tmp_path.name}/store", cache=tmp_path / node)
        self.copy = WorkCopy(store, "model", "1")
        self.copy.folder.mkdir(parents=True)
        (self.copy.folder / "metrics.jsonl").touch()
        self.said: list[str] = []
        group = Group(0, 1, torch.device("cpu"))
        self.checkpoints = Checkpoints(self.copy.folder / "checkpoints", 1, group, self.said.append, self.copy)

    def save(self, step: int) -> None:
        weight = Fragment("w", ElementRange(0, 2), {"weight": torch.full((2,), float(step))})
        self.checkpoints.save(TrainState(step=step), [weight])
        self.checkpoints.finish()

    @property
    def in_store(self) -> set[str]:
        return {Path(name).parent.name for name in self.copy.sizes("checkpoints") if name.endswith(MANIFEST_NAME)}


@pytest.mark.parametrize("fails_for", ["manifest", "files"])
def test_old_checkpoints_that_the_store_keeps_meanwhile_end_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_for: str
) -> None:
    here = Run(tmp_path, "here")
    here.save(10)
    filesystem = here.copy.store.filesystem
    remove = filesystem.rm

    def sometimes(path: str, **settings: Any) -> None:
        is_it = path.endswith(MANIFEST_NAME) is (fails_for == "manifest") and "step-00000010" in path
        (unreachable if is_it else remove)(path, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "rm", sometimes)
        here.save(20)
    assert here.in_store == {"step-00000020"} | ({"step-00000010"} if fails_for == "manifest" else set())

    there = Run(tmp_path, "there")
    newest = there.checkpoints.newest_sound()
    assert newest is not None and newest.name == "step-00000020"
    assert next(state.step for state in there.checkpoints.states()) == 20
    there.save(30)
    assert there.in_store == {"step-00000030"}
    assert not there.said


def test_a_checkpoint_that_does_not_reach_the_store_is_told_and_the_next_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Run(tmp_path, "here")
    here.save(10)
    with monkeypatch.context() as patch:
        patch.setattr(WorkCopy, "put", unreachable)
        here.save(20)
    assert here.said == ["the checkpoint of step 20 could not be written: Connect timeout on endpoint URL"]
    assert here.in_store == {"step-00000010"}
    here.save(30)
    assert here.in_store == {"step-00000030"}
