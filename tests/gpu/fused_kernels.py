"""Liger's kernels against transformers' own layers: the same losses from the same weights."""

from __future__ import annotations

from functools import partial
from typing import Any

from arithmetic import LENGTH, SHAPE, STEPS, same_weights
from place import Place, SkippedError, need
from runs import run, spec_of, write_rows

MOST_NATS = {"fp32": 1e-3, "bf16": 3e-2}
"""Between losses: products are the same, and only what is fused rounds otherwise."""


def measured(place: Place) -> dict[str, Any]:
    if not place.is_gpu:
        raise SkippedError("they run on GPUs only")
    need("liger_kernel")
    write_rows(place.folder, 256, LENGTH, document_tokens=LENGTH // 4)
    found = {}
    for precision, most in MOST_NATS.items():
        losses = []
        for kernels in ("torch", "liger"):
            spec = spec_of(
                place, architecture=SHAPE | {"max_positions": LENGTH}, sequence_length_tokens=LENGTH,
                learning_rate=3e-3, micro_batch_sequences=4, global_batch_tokens=8 * LENGTH, precision=precision,
                kernels=kernels,
            )  # fmt: skip
            losses.append(run(place, spec, place.folder, STEPS, partial(same_weights, place)).losses)
        apart = max(abs(one - other) for one, other in zip(*losses, strict=True))
        if not apart <= most:
            raise AssertionError(f"{precision}: losses {losses[0]} with torch's layers and {losses[1]} with Liger's")
        found[precision] = round(apart, 6)
    return {"largest_loss_difference": found}
