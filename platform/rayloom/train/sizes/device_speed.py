"""How fast this process' device multiplies matrices: what the speed of training is measured against."""

from __future__ import annotations

import resource
import statistics
import sys
import time

import torch

SIDE = {"cpu": 512, "cuda": 8192}
REPEATS = {"cpu": 5, "cuda": 10}


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square product in this arithmetic; milliseconds on a CPU, about a tenth of a second on a GPU."""
    side = SIDE.get(device.type, 2048)
    one = torch.rand(side, side, device=device).to(dtype)
    torch.mm(one, one)
    seconds = [_seconds(one) for _ in range(REPEATS.get(device.type, 5))]
    return float(2 * side**3 / min(statistics.median(seconds), seconds[-1]))


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held at once: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _seconds(one: torch.Tensor) -> float:
    if one.device.type == "cuda":
        torch.cuda.synchronize(one.device)
    started = time.perf_counter()
    torch.mm(one, one)
    if one.device.type == "cuda":
        torch.cuda.synchronize(one.device)
    return time.perf_counter() - started
