"""Attention of a packed row by each way there is: milliseconds, memory, the kernels that ran, and whether all agree.

Shapes: B = 1 row, S positions, H heads, D head size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from place import Place, without_memory_error
from torch import Tensor, nn
from torch.nn import functional

from rayloom.score.document_attention import Documents, attention

DOCUMENTS_IN_A_ROW = 8
MOST_DIFFERENCE = 0.05
"""Of outputs in bf16, whose size is about 1 at the first positions and less later."""
ROUNDS = 5
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def measured(place: Place) -> dict[str, Any]:
    shape = place.of((32, 8, 128), (4, 2, 16))
    found = {}
    for length in place.of((4096, 8192, 32768), (128,)):
        found[str(length)] = _at(place, length, *shape)
    return {"by_length": found}


def _at(place: Place, length: int, heads: int, kv_heads: int, size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, number, length, size, device=place.device, dtype=torch.bfloat16, requires_grad=True)
        for number in (heads, kv_heads, kv_heads)
    )
    lengths = [length // DOCUMENTS_IN_A_ROW] * DOCUMENTS_IN_A_ROW
    ways: dict[str, Callable[[], Attend]] = {
        "documents": lambda: _by_documents(place, lengths, length),
        "masked": lambda: _masked(place, lengths, length),
        "flex": lambda: _flex(place, lengths, length),
        "causal": lambda: _causal,  # one document: what packing would cost if it were free
    }
    found: dict[str, Any] = {}
    outputs: dict[str, Tensor] = {}
    for name, made in ways.items():

        def timed(name: str = name, made: Callable[[], Attend] = made) -> dict[str, Any]:
            figures, outputs[name] = _timed(place, made(), query, key, value)
            return figures

        found[name] = without_memory_error(timed)
    for name in ("masked", "flex"):
        if name in outputs and "documents" in outputs:
            apart = float((outputs[name].float() - outputs["documents"].float()).abs().max())
            found[name]["difference"] = round(apart, 5)
            if not apart <= MOST_DIFFERENCE:
                raise AssertionError(f"{length} positions: {name} and documents differ by {apart}")
    return found


def _timed(place: Place, attend: Attend, *tensors: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Median milliseconds of forward and backward pass, the memory above the inputs', and the longest kernels."""
    out = attend(*tensors)  # compiles, where it is compiled
    needs = out.requires_grad
    if needs:
        out.sum().backward()
    kept = out.detach().clone()
    del out
    place.start_peak()
    before, seconds = place.peak_bytes(), []
    for _ in range(ROUNDS):
        place.wait()
        began = time.perf_counter()
        out = attend(*tensors)
        if needs:
            out.sum().backward()
        place.wait()
        seconds.append(time.perf_counter() - began)
        del out
    figures = {
        "milliseconds": round(statistics.median(seconds) * 1e3, 3),
        "memory_mb": round((place.peak_bytes() - before) / 1e6, 1),
        "kernels": _kernels(place, attend, tensors, needs),
    }
    return figures, kept


def _kernels(place: Place, attend: Attend, tensors: tuple[Tensor, ...], needs: bool) -> list[str]:
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CUDA] if place.is_gpu else [activity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        out = attend(*tensors)
        if needs:
            out.sum().backward()
        place.wait()
    found = profile.key_averages()
    order = sorted(found, key=lambda event: -(event.device_time_total if place.is_gpu else event.self_cpu_time_total))
    return [event.key[:80] for event in order[:2]]


def _causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2)


def _by_documents(place: Place, lengths: list[int], length: int) -> Attend:
    """Rayloom's: one kernel on a GPU, document after document on a CPU."""
    starts = None
    if place.is_gpu:
        starts = torch.tensor([0, *lengths]).cumsum(0).to(device=place.device, dtype=torch.int32)
    documents, module = Documents(tuple(lengths), starts, length), nn.Module()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention(module, query, key, value, None, documents=documents)[0]

    return attend


def _masked(place: Place, lengths: list[int], length: int) -> Attend:
    """A boolean S × S mask, as transformers makes it, with keys repeated for all heads."""
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(place.device)
    place_in_row = torch.arange(length, device=place.device)
    mask = ((number[:, None] == number) & (place_in_row[:, None] >= place_in_row))[None, None]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)

    return attend


def _flex(place: Place, lengths: list[int], length: int) -> Attend:
    """torch's flex attention over the documents' blocks; compiled on a GPU, and forward only on a CPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(place.device)

    def inside(_: Tensor, __: Tensor, one: Tensor, other: Tensor) -> Tensor:
        return (number[one] == number[other]) & (one >= other)

    blocks = create_block_mask(inside, None, None, length, length, device=str(place.device))
    if not place.is_gpu:
        return lambda query, key, value: flex_attention(
            query.detach(), key.detach(), value.detach(), block_mask=blocks, enable_gqa=True
        ).transpose(1, 2)
    compiled: Any = torch.compile(flex_attention, dynamic=False)
    return lambda query, key, value: compiled(query, key, value, block_mask=blocks, enable_gqa=True).transpose(1, 2)
