"""The Muon optimiser (orthogonalised momentum) for matrices that are stored in one flat tensor or in shards of it.

Jordan et al. 2024 ("Muon: an optimizer for hidden layers"); sharding and the scale of updates as Liu et al. 2025
("Muon is scalable for LLM training"): a shard's owner gathers whole matrices, orthogonalises those that reach into its
shard, and keeps its own part. AdamW updates all parameters that are not matrices inside a layer.

Shapes: F elements of the flattened group over all workers, P in this worker's shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from rayloom.models.processor import multiplies_bf16

NUM_ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton–Schulz iteration, with the steepest slope at zero: small singular values grow in few steps."""
MOST_ELEMENTS_AT_ONCE = 1 << 24
"""Most elements of equally shaped matrices that are stacked in one call; a larger matrix fills a device alone."""


@dataclass(frozen=True)
class Layout:
    """Where each matrix is in the flattened group, and where this worker's shard begins."""

    matrices: Sequence[tuple[int, torch.Size]]
    """Offset and shape of each matrix."""
    shard_start: int
    gathered: Callable[[Tensor], Tensor]
    """(P,) → (F,): concatenates the shards of all workers."""


class MuonAdamW(AdamW):
    """Muon for parameter groups that have a `layout` (a Layout) and a `momentum`; AdamW for all others."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        groups = self.param_groups
        for group in groups:
            if "layout" in group:
                self._step_matrices(group)
        self.param_groups = [group for group in groups if "layout" not in group]
        try:
            if self.param_groups:
                super().step(closure)
        finally:
            self.param_groups = groups

    def _step_matrices(self, group: dict[str, Any]) -> None:
        (flat,) = group["params"]
        state = self.state[flat]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(flat)
        momentum = state["momentum"].lerp_(flat.grad, 1 - group["momentum"])
        looked_ahead = torch.lerp(flat.grad, momentum, group["momentum"])  # Nesterov momentum
        looked_ahead = looked_ahead.to(_computed_in(flat.device))
        update = _update_of_shard(looked_ahead, group["layout"])
        flat.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])


def _update_of_shard(shard: Tensor, layout: Layout) -> Tensor:
    """(P,) the orthogonalised update of this worker's shard; zero for padding."""
    whole = layout.gathered(shard)
    update = torch.zeros(len(shard), dtype=torch.float32, device=shard.device)
    shard_end = layout.shard_start + len(shard)
    for shape, starts in _batches(layout, shard_end):
        size, scale = shape.numel(), 0.2 * math.sqrt(max(shape))
        matrices = orthogonalized(torch.stack([whole[start : start + size].view(shape) for start in starts]))
        for start, matrix in zip(starts, matrices, strict=True):
            first, last = max(start, layout.shard_start), min(start + size, shard_end)
            update[first - layout.shard_start : last - layout.shard_start] = (
                matrix.reshape(-1)[first - start : last - start].float() * scale
            )
    return update


def _batches(layout: Layout, shard_end: int) -> Iterator[tuple[torch.Size, list[int]]]:
    """Shape and offsets of the matrices that overlap the shard, in stacks of at most MOST_ELEMENTS_AT_ONCE elements."""
    by_shape: dict[torch.Size, list[int]] = {}
    for start, shape in layout.matrices:
        if max(start, layout.shard_start) < min(start + shape.numel(), shard_end):
            by_shape.setdefault(shape, []).append(start)
    for shape, starts in by_shape.items():
        count = max(1, MOST_ELEMENTS_AT_ONCE // shape.numel())
        yield from ((shape, starts[begin : begin + count]) for begin in range(0, len(starts), count))


def orthogonalized(matrices: Tensor) -> Tensor:
    """(N, rows, columns) bf16 or fp32: the matrices with singular values close to 1 (between 0.7 and 1.2)."""
    a, b, c = COEFFICIENTS
    dtype = _computed_in(matrices.device)
    is_wide = matrices.shape[1] <= matrices.shape[2]
    wide = matrices.to(dtype) if is_wide else matrices.to(dtype).mT
    wide = wide / torch.linalg.vector_norm(wide.float(), dim=(1, 2), keepdim=True).clamp(min=1e-7).to(dtype)
    for _ in range(NUM_ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if is_wide else wide.mT


def _computed_in(device: torch.device) -> torch.dtype:
    """bf16, which is precise enough (Jordan et al. 2024); fp32 on a CPU that would convert bf16 number by number."""
    return torch.bfloat16 if device.type == "cuda" or multiplies_bf16() else torch.float32
