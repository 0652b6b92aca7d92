"""Versions, the device, and its speed beside the data sheet's."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import torch
from place import Place

from rayloom.train.sizes.peaks import data_sheet_peak, matrix_peak, use_tensor_cores

PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "deepspeed", "vllm", "ray", "flashinfer-python")


def measured(place: Place) -> dict[str, Any]:
    use_tensor_cores(place.device)
    types = {"bf16": torch.bfloat16, "fp32": torch.float32}
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name(place.device) if place.is_gpu else platform.processor() or "cpu",
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "measured_tflops": {name: round(matrix_peak(place.device, dtype) / 1e12, 4) for name, dtype in types.items()},
    }
    if not place.is_gpu:
        return facts
    properties = torch.cuda.get_device_properties(place.device)
    sheet = {name: data_sheet_peak(place.device, dtype) for name, dtype in types.items()}
    return facts | {
        "num_gpus": torch.cuda.device_count(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "data_sheet_tflops": {name: None if peak is None else round(peak / 1e12) for name, peak in sheet.items()},
        "copy_gb_per_second": _copy_speed(place),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _copy_speed(place: Place) -> float:
    """GB/s read and written by a copy within the device."""
    source = torch.empty(1 << 30, dtype=torch.float32, device=place.device)
    copy = torch.empty_like(source)
    copy.copy_(source)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(5):
        copy.copy_(source)
    end.record()
    place.wait()
    return round(2 * 5 * source.nbytes / begin.elapsed_time(end) * 1e3 / 1e9, 1)
