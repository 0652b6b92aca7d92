"""Trackers get the numbers of a run under the step that they belong to."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from support.training_jobs import small_spec
from tensorboardX.proto.event_pb2 import Event

from rayloom.errors import ResourceError
from rayloom.train.loop.heldout_loss import HeldoutMeasure
from rayloom.train.reporting.trackers import TrackedRun, measured_in_words, opened

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


def tracked(folder: Path, *trackers: dict[str, Any]) -> TrackedRun:
    return TrackedRun(small_spec(name="job", trackers=trackers), "0123", folder)


def test_curves_by_step(tmp_path: Path) -> None:
    with opened(tracked(tmp_path, {"type": "tensorboard"})) as trackers:
        for event in (STEP, HELDOUT, {"event": "said", "text": "something for people"}):
            trackers[0].add(event)
    found = written(tmp_path / "runs" / "job@0123")
    assert found["train/loss", 7] == 2.5
    assert found["train/tokens_per_second", 7] == 200.0
    assert found["domain/perplexity", 8] == 2.75
    assert len(found) == 8


def test_rewards_have_no_perplexity_and_losses_no_parts() -> None:
    rewards = HeldoutMeasure(-0.68, 100, score=1.68, parts={"exact": 0.98, "judge": None}).as_event()
    assert "perplexity" not in rewards
    assert measured_in_words(rewards) == "reward 1.680 (exact 0.980, judge unknown)"
    loss = HeldoutMeasure(0.0, 10).as_event()
    assert loss == {"loss": 0.0, "perplexity": 1.0, "labels": 10}
    assert measured_in_words(loss) == "loss 0.0000, perplexity 1.0"
    assert measured_in_words(HeldoutMeasure(0.5, 10, 0.75, 0.7).as_event()) == "loss 0.5000, score 0.700"


@pytest.mark.parametrize(
    ("tracker", "said"),
    [
        ({"type": "tensorboard"}, "The tracker tensorboard needs the package tensorboardX: pip install tensorboardX"),
        ({"type": "wandb"}, "The tracker wandb needs the package wandb: pip install wandb"),
        ({"type": "mlflow"}, "Mlflow needs MLflow: pip install mlflow-skinny sqlalchemy alembic"),
        ({"type": "mlflow", "uri": "http://host:5000"}, "Mlflow needs MLflow: pip install mlflow-skinny, or"),
    ],
)
def test_a_missing_package_is_said_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=said), opened(tracked(tmp_path, tracker)):
        pass


def test_settings_are_those_of_the_file_by_path(tmp_path: Path) -> None:
    settings = tracked(tmp_path, {"type": "tensorboard"}).settings
    assert settings["architecture.num_layers"] == "2"
    assert settings["schedule.type"] == "cosine"
    assert settings["data.corpus"] == "artifact:made-up"
    assert "trackers" not in settings
    assert "seed" not in settings
