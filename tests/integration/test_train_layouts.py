"""Four gloo workers in every layout against one: losses of 50 steps, killed and resumed, and gone on in another layout.

With two workers, and for every engine, a short form is in test_train_engines.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support.training_jobs import small_job
from support.workers import Training, run_alone, run_on_workers

from rayloom.train.loop.run_log import read_log

pytestmark = pytest.mark.full

NUM_STEPS = 50
LAYOUTS: dict[str, dict[str, int]] = {
    "tensor": {"tensor": 2},
    "context": {"context": 2},
    "both": {"tensor": 2, "context": 2},
    "tensor-zero1": {"tensor": 2, "zero_stage": 1},
    "tensor-zero2": {"tensor": 2, "zero_stage": 2},
    "tensor-zero3": {"tensor": 2, "zero_stage": 3},
    "context-zero1": {"context": 2, "zero_stage": 1},
    "context-zero2": {"context": 2, "zero_stage": 2},
    "context-zero3": {"context": 2, "zero_stage": 3},
    "both-zero3": {"tensor": 2, "context": 2, "zero_stage": 3},
    "pipeline": {"pipeline": 2},
    "pipeline-tensor": {"pipeline": 2, "tensor": 2},
    "pipeline-of-four": {"pipeline": 4},
}
MIXTURES: dict[str, dict[str, int]] = {
    "expert": {"expert": 2},
    "expert-each": {"expert": 4},
    "expert-zero2": {"expert": 2, "zero_stage": 2},
    "expert-each-zero2": {"expert": 4, "zero_stage": 2},
    "expert-tensor": {"expert": 2, "tensor": 2},
    "expert-each-tensor-zero2": {"expert": 4, "tensor": 2, "zero_stage": 2},
    "expert-context": {"expert": 4, "context": 2},
}
DATA: dict[str, int] = {}
ARCHITECTURE = {
    "type": "decoder", "num_layers": 4, "hidden_size": 16, "num_heads": 4, "num_key_value_heads": 2,
    "feed_forward_size": 32, "max_positions": 32, "tied_embeddings": False,
}  # fmt: skip


def training(folder: Path, layout: dict[str, int], dies_at_step: int | None = None, num_workers: int = 4) -> Training:
    is_mixture = "expert" in folder.name
    changes: dict[str, Any] = {
        "architecture": None if is_mixture else ARCHITECTURE,
        # A choice of experts would hang on rounding at times, and from there on losses differ.
        "base": "./mixture-of-all" if is_mixture else None,
        "num_steps": NUM_STEPS,
        # Differences of rounding grow by the rate, and faster through a router.
        "learning_rate": 3e-4 if is_mixture else 3e-3,
        "global_batch_tokens": 8 * 16,
        "sharding": layout,
        "workers": {"num_workers": num_workers},
    }
    if not folder.exists():
        folder.mkdir()
        small_job(folder, **changes)
    return Training(folder, changes, dies_at_step)


def losses(folder: Path) -> list[float]:
    events = list(read_log(folder / "work" / "metrics.jsonl"))
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, NUM_STEPS + 1))
    return [event["loss"] for event in events if event["event"] in ("step", "heldout")]


def alone_as(name: str) -> str:
    return "expert-alone" if name in MIXTURES else "alone"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layouts")
    run_alone([training(root / name, DATA, num_workers=1) for name in ("alone", "expert-alone")])
    trainings = []
    for name, layout in (LAYOUTS | MIXTURES).items():
        trainings += [
            training(root / f"{name}-whole", layout),
            training(root / f"{name}-killed", layout, dies_at_step=9),
            training(root / f"{name}-killed", layout),
            training(root / f"{name}-moved", layout, dies_at_step=9),
            training(root / f"{name}-moved", DATA),
            training(root / f"{name}-back", DATA, dies_at_step=9),
            training(root / f"{name}-back", layout),
        ]
    run_on_workers(4, trainings)
    return root


@pytest.mark.parametrize("name", LAYOUTS | MIXTURES)
def test_losses_are_those_of_one_worker(trained: Path, name: str) -> None:
    alone = alone_as(name)
    assert losses(trained / f"{name}-whole") == pytest.approx(losses(trained / alone), abs=1e-5)
    whole, own = (load_file(trained / f"{run}/out/model.safetensors") for run in (alone, f"{name}-whole"))
    assert own.keys() == whole.keys()
    assert all(own[key].shape == whole[key].shape for key in whole)


@pytest.mark.parametrize("name", LAYOUTS | MIXTURES)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(trained: Path, name: str) -> None:
    assert losses(trained / f"{name}-killed") == losses(trained / f"{name}-whole")


@pytest.mark.parametrize("name", LAYOUTS | MIXTURES)
def test_a_run_goes_on_in_another_layout_and_comes_from_another(trained: Path, name: str) -> None:
    alone = losses(trained / alone_as(name))
    assert losses(trained / f"{name}-moved") == pytest.approx(alone, abs=1e-5)
    assert losses(trained / f"{name}-back") == pytest.approx(alone, abs=1e-5)
