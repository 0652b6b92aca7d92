"""GPTQ on the device: a layer as large as a real one, against rounding to nearest and against the CPU's result."""

from __future__ import annotations

import time
from typing import Any

import torch
from place import Place
from torch import Tensor

from rayloom.export.schemes.gptq import GroupedWeight, gptq, peak_bytes, round_to_nearest

GROUP = 128
MOST_OF_NEAREST = 0.7
"""Error of the outputs, as a share of that after rounding to nearest."""
MOST_OTHER_VALUES = 0.01
"""Share of values that the CPU rounds otherwise: sums in another order decide near ties."""


def measured(place: Place) -> dict[str, Any]:
    outputs, inputs, positions = place.of((14336, 4096, 16384), (128, 256, 1024))
    weight, read = _layer(place, outputs, inputs, positions)
    products = read.T @ read
    place.start_peak()
    before = place.peak_bytes()
    place.wait()
    began = time.perf_counter()
    fitted = gptq(weight, products, GROUP, torch.bfloat16)
    place.wait()
    seconds = time.perf_counter() - began
    peak = place.peak_bytes() - before
    share = _error(fitted, weight, read) / _error(round_to_nearest(weight, GROUP, torch.bfloat16), weight, read)
    if not share <= MOST_OF_NEAREST:
        raise AssertionError(f"GPTQ's error is {share:.3f} of rounding to nearest")
    other = _otherwise_on_cpu(place)
    if not other <= MOST_OTHER_VALUES:
        raise AssertionError(f"{other:.2%} of the values are others on the CPU")
    found = {"layer": [outputs, inputs], "seconds": round(seconds, 3), "error_to_nearest": round(share, 4)}
    stated = {"peak_gb": round(peak / 1e9, 3), "stated_gb": round(peak_bytes(outputs, inputs) / 1e9, 3)}
    return found | {"other_values_on_cpu": round(other, 6), **stated}


def _layer(place: Place, outputs: int, inputs: int, positions: int) -> tuple[Tensor, Tensor]:
    """(O, I) weights and (T, I) inputs in which some are large and all hang together, as real ones do."""
    generator = torch.Generator(place.device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=place.device)

    shared = normal(positions, inputs // 8) @ normal(inputs // 8, inputs) / (inputs // 8) ** 0.5
    sizes = torch.logspace(0, -1, inputs, device=place.device)
    return normal(outputs, inputs) * 0.02, (shared + 0.3 * normal(positions, inputs)) * sizes


def _error(rounded: GroupedWeight, weight: Tensor, read: Tensor) -> float:
    return float((read @ (rounded.restored() - weight).T).square().mean())


def _otherwise_on_cpu(place: Place) -> float:
    weight, read = _layer(place, 64, 256, 1024)
    products = read.T @ read
    here = gptq(weight, products, GROUP, torch.bfloat16).values.cpu()
    there = gptq(weight.cpu(), products.cpu(), GROUP, torch.bfloat16).values
    return float((here != there).float().mean())
