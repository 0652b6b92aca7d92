"""Peak speed and peak memory of this process' device."""

from __future__ import annotations

import resource
import statistics
import sys
import time

import torch

from rayloom.models.processor import multiplies_bf16
from rayloom.specs.training.hardware import device_named

SIDE = {"cpu": 512, "cuda": 8192}
SIDE_WHERE_SLOW = 128
"""On a CPU that converts every bf16 number first, where a product of the other size takes half a second."""
REPEATS = {"cpu": 5, "cuda": 10}


def data_sheet_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak FLOP/s by the data sheet, if the device is a GPU in the table of `specs.training.hardware`; else None."""
    known = device_named(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if known is None or (dtype == torch.float32 and not known.has_bf16):
        return None
    return known.peak_flops / (2 if dtype == torch.float32 else 1)  # fp32 runs in TF32, at half the speed of bf16


def use_tensor_cores(device: torch.device) -> None:
    """Lets a GPU multiply fp32 matrices in TF32: inputs rounded to 10 bits of mantissa, sums in fp32."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = "tf32"


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measured FLOP/s of a square matrix product in this type. Takes milliseconds on a CPU, about 0.1 s on a GPU."""
    is_slow = device.type == "cpu" and dtype == torch.bfloat16 and not multiplies_bf16()
    side = SIDE_WHERE_SLOW if is_slow else SIDE.get(device.type, 2048)
    one = torch.rand(side, side, device=device).to(dtype)
    torch.mm(one, one)
    seconds = [_seconds(one) for _ in range(REPEATS.get(device.type, 5))]
    return float(2 * side**3 / min(statistics.median(seconds), seconds[-1]))


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: on the GPU, or its resident memory without one."""
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
