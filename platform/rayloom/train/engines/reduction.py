"""Sums gradients over workers bucket by bucket, while the backward pass still computes the rest (Li et al. 2020, DDP).

It happens in the last backward pass of a step only, so gradients that are accumulated are sent once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BUCKET_ELEMENTS = 1 << 24
"""Least elements of a bucket: enough that a network is busy with each, and small enough to begin early."""

SumInBackground = Callable[[Tensor], Any]
"""Begins to sum a tensor over all workers in place; the result has `wait()`."""


@dataclass(frozen=True)
class Place:
    """Where a parameter's gradient stands in the flat tensor."""

    parameter: nn.Parameter
    start: int


class GradientSums:
    """Buckets of one flat tensor of gradients. All workers send them in the same order."""

    def __init__(
        self, gradients: Tensor, places: Sequence[Place], sum_in_background: SumInBackground, dtype: torch.dtype
    ) -> None:
        """`places`: in the model's order, each with a gradient of its own. `dtype`: of the numbers that are sent."""
        self._gradients, self._sum, self._dtype = gradients, sum_in_background, dtype
        self._buckets, self._sizes = self._cut(places)
        self._missing = list(self._sizes)
        self._next = 0
        self._is_last = False
        self._sent: list[tuple[Tensor, Tensor, Any]] = []

    def _cut(self, places: Sequence[Place]) -> tuple[list[Tensor], list[int]]:
        """Contiguous parts of the flat tensor, and the number of parameters in each, in the order of sending.

        The backward pass ends with the model's first parameters, so a bucket waits for the first of its own.
        """
        order = {place.parameter: number for number, place in enumerate(places)}
        by_start = sorted(places, key=lambda place: place.start)
        groups: list[list[Place]] = [[]]
        for place in by_start:
            if groups[-1] and place.start - groups[-1][0].start >= BUCKET_ELEMENTS:
                groups.append([])
            groups[-1].append(place)
        ends = [*(group[0].start for group in groups[1:]), self._gradients.numel()]
        cut = sorted(zip(groups, ends, strict=True), key=lambda one: -min(order[place.parameter] for place in one[0]))
        for number, (group, _) in enumerate(cut):
            for place in group:
                place.parameter.register_post_accumulate_grad_hook(self._noting(number))  # type: ignore[no-untyped-call]
        return [self._gradients[group[0].start : end] for group, end in cut], [len(group) for group, _ in cut]

    def begin(self) -> None:
        """The next backward pass is the last one of the step."""
        self._missing, self._next, self._is_last = list(self._sizes), 0, True

    def finish(self) -> None:
        """Waits until the whole tensor is summed."""
        while self._next < len(self._buckets):  # also parameters that had no gradient in this pass
            self._send()
        for bucket, sent, work in self._sent:
            work.wait()
            if sent is not bucket:
                bucket.copy_(sent)
        self._sent.clear()
        self._is_last = False

    def _noting(self, number: int) -> Callable[[Tensor], None]:
        def note(_: Tensor) -> None:
            if self._is_last:
                self._missing[number] -= 1
                while self._next < len(self._buckets) and self._missing[self._next] <= 0:
                    self._send()

        return note

    def _send(self) -> None:
        bucket = self._buckets[self._next]
        sent = bucket if self._dtype == bucket.dtype else bucket.to(self._dtype)
        self._sent.append((bucket, sent, self._sum(sent)))
        self._next += 1
