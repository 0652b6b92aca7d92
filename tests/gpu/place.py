"""Where a step of the check runs, and in which form; and what steps share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")


class SkippedError(Exception):
    """The step cannot run here; the text says why."""


@dataclass(frozen=True)
class Place:
    """A device, a folder of the step's own, and whether models are small enough for a CPU."""

    device: torch.device
    folder: Path
    is_small: bool

    @classmethod
    def here(cls, folder: Path, is_small: bool) -> Place:
        has_gpu = torch.cuda.is_available()
        device = torch.device("cuda", 0) if has_gpu else torch.device("cpu")
        os.environ.setdefault("DS_ACCELERATOR", device.type)
        if not has_gpu:
            torch.set_num_threads(1)  # small matrices, and perhaps a busy machine
        return cls(device, folder, is_small or not has_gpu)

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def of(self, full: Value, small: Value) -> Value:
        return small if self.is_small else full

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) if self.is_gpu else 0

    def start_peak(self) -> None:
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize(self.device)


def need(*packages: str) -> None:
    """Raises SkippedError if one of them is not installed."""
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        raise SkippedError(f"not installed: {', '.join(missing)}")


def is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a name that was blocked on purpose
        return False


def target(value: float, least: float | None = None, most: float | None = None) -> dict[str, Any]:
    """A figure beside what it should be."""
    is_reached = (least is None or value >= least) and (most is None or value <= most)
    bound = {"least": least} if least is not None else {"most": most}
    return {"value": round(value, 4), **bound, "is_reached": is_reached}


def without_memory_error(compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it gives, or that the device's memory did not suffice."""
    try:
        return compute()
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        return {"out_of_memory": str(error).splitlines()[0][:200]}
