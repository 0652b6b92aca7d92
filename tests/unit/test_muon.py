"""Matrices of one shape are made orthogonal together, and each as it would be alone, whatever the shards."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rayloom.train.engines import muon
from rayloom.train.engines.muon import Layout, orthogonalized

SHAPES = [torch.Size(shape) for shape in ((8, 8), (8, 24), (24, 8), (8, 8), (8, 24), (8, 8))]


def updates(flat: Tensor, matrices: list[tuple[int, torch.Size]], num_shards: int) -> Tensor:
    size = len(flat) // num_shards
    layouts = [Layout(matrices, size * rank, lambda _: flat) for rank in range(num_shards)]
    shards = zip(flat.split(size), layouts, strict=True)
    return torch.cat([muon._update_of_shard(shard, layout) for shard, layout in shards])


def test_each_matrix_is_updated_as_if_it_were_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    flat = torch.randn(sum(shape.numel() for shape in SHAPES)).bfloat16()
    starts = [sum(shape.numel() for shape in SHAPES[:number]) for number in range(len(SHAPES))]
    matrices = list(zip(starts, SHAPES, strict=True))
    alone = [
        orthogonalized(flat[start : start + shape.numel()].view(1, *shape)).float().reshape(-1)
        * (0.2 * math.sqrt(max(shape)))
        for start, shape in matrices
    ]
    for num_shards in (1, 2, 4):
        torch.testing.assert_close(updates(flat, matrices, num_shards), torch.cat(alone), rtol=1e-2, atol=1e-3)
    monkeypatch.setattr(muon, "MOST_ELEMENTS_AT_ONCE", 2 * 8 * 8)
    torch.testing.assert_close(updates(flat, matrices, 1), torch.cat(alone), rtol=1e-2, atol=1e-3)


def test_singular_values_come_close_to_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalized(torch.randn(3, 32, 96)).float())
    assert values.min() > 0.6
    assert values.max() < 1.3
