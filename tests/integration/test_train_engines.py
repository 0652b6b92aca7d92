"""Every engine on two workers against one worker: the same losses, resumed exactly, on more and fewer workers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.training_jobs import small_job
from support.workers import Training, run_alone, run_on_workers

from rayloom.train.loop.run_log import read_log

NUM_STEPS = 8
AXES = ("pipeline", "tensor", "context", "expert")


@dataclass(frozen=True)
class Case:
    """A stage of ZeRO with a precision and an optimiser."""

    stage: int
    precision: str
    optimizer: str = "adamw"
    offload: bool = False
    changed: tuple[tuple[str, Any], ...] = ()
    pipeline: int = 1
    tensor: int = 1
    context: int = 1
    expert: int = 1
    """Workers that have some of the layers, a part of every matrix, of every row, or some of the experts; alone, a
    worker has all of it."""

    @property
    def name(self) -> str:
        more = "".join(f"-{name}" for name, _ in self.changed)
        axes = "".join(f"-{name}{getattr(self, name)}" for name in AXES)
        layout = f"zero{self.stage}{axes}"
        return f"{layout}-{self.precision}-{self.optimizer}{'-offload' * self.offload}{more}"

    @property
    def tolerance(self) -> float:
        return 1e-3 if self.precision == "fp32" else 1e-2

    def changes(self, is_alone: bool) -> dict[str, Any]:
        axes = {name: 1 if is_alone else getattr(self, name) for name in AXES}
        return {
            "sharding": {
                "zero_stage": self.stage,
                **axes,
                "offload": {"optimizer": self.offload, "parameters": self.offload and self.stage == 3},
            },
            "precision": self.precision,
            "optimizer": {"type": self.optimizer},
            "checkpoints": {"every_steps": 2},
            "num_steps": NUM_STEPS,
            # Six rows a step in micro-batches of two: they do not come out even on two workers.
            "global_batch_tokens": 6 * 16,
            "workers": {"num_workers": math.prod(axes.values())},
            **dict(self.changed),
        }


TAUGHT = (("teacher", {"model": "artifact:big", "weight": 0.7, "divergence": {"type": "jensen_shannon"}}),)
HELD = (
    ("architecture", None),
    ("base", "./teacher"),
    ("retain", [{"type": "l2_sp", "strength": 3.0}, {"type": "old_model"}]),
)
MIXTURE = (("architecture", None), ("base", "./mixture"), ("global_batch_tokens", 8 * 16))
CORE = [
    Case(0, "fp32"), Case(1, "bf16"), Case(2, "fp32"), Case(3, "fp32"), Case(2, "bf16", "muon"),
    Case(2, "fp32", changed=HELD), Case(0, "fp32", tensor=2),
    Case(0, "fp32", context=2), *(Case(stage, "fp32", changed=MIXTURE, expert=2) for stage in (0, 2)),
    Case(0, "fp32", pipeline=2),
]  # fmt: skip
RECOMPUTED = (("activation_checkpointing", True),)
SENT_IN_BF16 = (("sharding", {"reduce_precision": "bf16"}),)
REST = [
    Case(2, "fp32", offload=True), Case(3, "fp32", offload=True), Case(3, "fp32", changed=RECOMPUTED),
    Case(1, "bf16", offload=True), Case(0, "bf16"), Case(1, "fp32"), Case(2, "bf16"), Case(3, "bf16"),
    Case(0, "bf16", "muon"), Case(0, "fp32", changed=SENT_IN_BF16), Case(2, "fp32", changed=TAUGHT),
    Case(3, "fp32", changed=TAUGHT), Case(2, "bf16", tensor=2), Case(0, "fp32", changed=RECOMPUTED, tensor=2),
    Case(0, "bf16", "muon", context=2), Case(3, "fp32", changed=MIXTURE), Case(0, "bf16", pipeline=2),
    Case(0, "fp32", changed=RECOMPUTED, pipeline=2),
]  # fmt: skip

Losses = Callable[[Case, str], list[float]]


def losses(folder: Path) -> list[float]:
    events = list(read_log(folder / "work" / "metrics.jsonl"))
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, NUM_STEPS + 1))
    return [event["loss"] for event in events if event["event"] in ("step", "heldout")]


@pytest.fixture(scope="module", params=[CORE, pytest.param(REST, marks=pytest.mark.full)], ids=["core", "rest"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Case], Losses]:
    """The cases, and their losses by the run's fate: whole, killed and resumed, elastic (1 → 2 → 1), alone."""
    cases: list[Case] = request.param
    root = tmp_path_factory.mktemp("engines")
    for fate in ("whole", "killed", "elastic", "alone"):
        for case in cases:
            (root / f"{case.name}-{fate}").mkdir()
            small_job(root / f"{case.name}-{fate}", **case.changes(is_alone=True))

    def each(fate: str, dies_at_step: int | None = None, is_alone: bool = False) -> list[Training]:
        return [Training(root / f"{case.name}-{fate}", case.changes(is_alone), dies_at_step) for case in cases]

    run_alone([*each("elastic", 3, is_alone=True), *each("alone", is_alone=True)])
    run_on_workers(2, [*each("whole"), *each("killed", 5), *each("killed"), *each("elastic", 3)])
    run_alone(each("elastic", is_alone=True))
    return cases, lambda case, fate: losses(root / f"{case.name}-{fate}")


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(trained: tuple[list[Case], Losses]) -> None:
    cases, losses_of = trained
    for case in cases:
        assert losses_of(case, "killed") == losses_of(case, "whole"), case.name


def test_the_number_of_workers_does_not_change_the_losses(trained: tuple[list[Case], Losses]) -> None:
    cases, losses_of = trained
    for case in cases:
        whole = pytest.approx(losses_of(case, "whole"), abs=case.tolerance)
        assert losses_of(case, "alone") == whole, case.name
        assert losses_of(case, "elastic") == whole, case.name


def test_sharding_does_not_change_the_losses(trained: tuple[list[Case], Losses]) -> None:
    cases, losses_of = trained
    alike = [case for case in cases if (case.precision, case.optimizer) == (cases[0].precision, "adamw")]
    alike = [case for case in alike if case.changed not in (TAUGHT, HELD, MIXTURE)]
    assert len(alike) >= 3
    for case in alike[1:]:
        assert losses_of(case, "whole") == pytest.approx(losses_of(alike[0], "whole"), abs=case.tolerance), case.name
