"""Trackers get the numbers of a run under the step that they belong to."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from rayloom.errors import ResourceError
from rayloom.specs.trackers import TensorBoard
from rayloom.train.trackers import opened

STEP: dict[str, Any] = {
    "event": "step", "step": 7, "loss": 2.5, "learning_rate": 0.1, "gradient_norm": 1.5, "tokens": 100, "seconds": 0.5,
    "data_wait_seconds": 0.0, "labels": 90,
}  # fmt: skip
HELDOUT = {"event": "heldout", "step": 8, "name": "domain", "loss": 1.0, "perplexity": 2.75, "labels": 10}


def written(folder: Path) -> dict[tuple[str, int], float]:
    """Records are: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    (file,) = folder.glob("events.*")
    data, found = file.read_bytes(), {}
    while data:
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + size :]
    return found


def test_curves_by_step(tmp_path: Path) -> None:
    with opened([TensorBoard(type="tensorboard")], "job@0123", tmp_path) as trackers:
        for event in (STEP, HELDOUT, {"event": "said", "text": "something for people"}):
            trackers[0].add(event)
    found = written(tmp_path / "runs" / "job@0123")
    assert found["train/loss", 7] == 2.5
    assert found["train/tokens_per_second", 7] == 200.0
    assert found["domain/perplexity", 8] == 2.75
    assert len(found) == 8


def test_a_missing_package_is_said_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(ResourceError, match="pip install tensorboardX"),
        opened([TensorBoard(type="tensorboard")], "job", tmp_path),
    ):
        pass
