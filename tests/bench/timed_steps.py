"""Training loops timed step by step, and whether two of them computed the same."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Timed:
    """What one run of a loop gave."""

    tokens_per_second: float
    losses: list[float]
    """Of every step, also those that are not timed."""
    seconds: float
    """Of the steps that count."""
    data_wait_fraction: float = 0.0
    stall_seconds: float = 0.0


class StepClock:
    """Ticks between steps; the first few steps do not count."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ticks: list[float] = []

    def tick(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._ticks.append(time.perf_counter())

    @property
    def num_counted(self) -> int:
        return len(self._ticks) - 1 - WARM_UP_STEPS

    @property
    def counted_seconds(self) -> float:
        return self._ticks[-1] - self._ticks[WARM_UP_STEPS]


def ratio(ours: list[float], others: list[float]) -> float:
    """By round, so that what slows the machine down slows both sides; the median round counts."""
    return round(statistics.median(one / other for one, other in zip(ours, others, strict=True)), 4)


def check_same(loops: dict[str, Timed], tolerance: float) -> None:
    """Stops where two loops did not compute the same: their speeds would be of different things."""
    ours = loops["ours"].losses
    for name, timed in loops.items():
        apart = max(abs(one - other) for one, other in zip(ours, timed.losses, strict=True))
        if not apart <= tolerance:
            raise SystemExit(f"{name} computed something else than ours: losses {timed.losses} and {ours}")
