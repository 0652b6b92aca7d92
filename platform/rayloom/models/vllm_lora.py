"""LoRA inside vLLM on CPUs: a product of matrices for each adapter of a batch, instead of one for each token.

vLLM 0.32's operations for CPUs copy an adapter's matrices for every token of a batch, which takes two to seven times as
long as the layer itself, and more for the output layer, also if no adapter has weights for it. They know no tokens
without an adapter: index −1 gives these the adapter in the last slot. And two requests for log-probabilities of their
prompts end the engine.

Shapes: T tokens, I inputs, O outputs of a layer, R rank, A slots for adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

OPERATIONS = ("sgmv_shrink", "sgmv_expand", "sgmv_expand_slice")


def replace_operations() -> None:
    """Replaces vLLM's operations in this process."""
    from vllm.lora.punica_wrapper import punica_cpu

    for name in OPERATIONS:
        setattr(punica_cpu, name, globals()[name])
    punica_cpu.PunicaWrapperCPU.add_lora_logits = add_lora_logits


def sgmv_shrink(
    inputs: Tensor, weights: Tensor, output: Tensor, starts: Tensor, lengths: Tensor, adapters: Tensor, *rest: Any
) -> None:
    """Sets output (T, R) to inputs (T, I) times A of each token's adapter, scaled. `weights`: (A, 1, R, I).

    `starts`, `lengths`, `adapters`: of each run of tokens with the same adapter; −1 for none, whose rows are kept.
    """
    *_, scaling = rest
    for rows, matrix in _runs(weights, starts, lengths, adapters):
        torch.matmul(inputs[rows].to(output.dtype), matrix.to(output.dtype).T, out=output[rows]).mul_(scaling)


def sgmv_expand_slice(
    inputs: Tensor, weights: Tensor, output: Tensor, starts: Tensor, lengths: Tensor, adapters: Tensor, *rest: Any
) -> None:
    """Adds inputs (T, R) times B of each token's adapter to columns of output (T, …). `weights`: (A, 1, O, R)."""
    *_, offset, size, add_inputs = rest
    _expand(inputs, weights, output[:, offset : offset + size], _runs(weights, starts, lengths, adapters), add_inputs)


def sgmv_expand(
    inputs: Tensor, weights: Tensor, output: Tensor, starts: Tensor, lengths: Tensor, adapters: Tensor, *rest: Any
) -> None:
    """The same for the first columns."""
    *_, add_inputs = rest
    _expand(inputs, weights, output, _runs(weights, starts, lengths, adapters), add_inputs)


def add_lora_logits(wrapper: Any, logits: Tensor, hidden: Tensor, a: Tensor, b: Tensor, scale: float, **_: Any) -> None:
    """Adds to logits (T, V) what adapters with weights for the output layer say about hidden states (T, I).

    A method of vLLM's wrapper, which knows the adapter of each token that is sampled from.
    """
    if not a.any():
        return
    adapters = wrapper.sampler_indices
    if len(adapters) != len(hidden):
        if len(adapters.unique()) > 1:
            raise ValueError("Log-probabilities of prompts cannot be had beside adapters that change the output layer")
        adapters = adapters[:1].expand(len(hidden))
    numbers, lengths = adapters.unique_consecutive(return_counts=True)
    runs = lengths.cumsum(0) - lengths, lengths, numbers
    low = torch.zeros(len(hidden), b.shape[-1])
    sgmv_shrink(hidden, a, low, *runs, scale)
    sgmv_expand(low, b, logits, *runs, True)


def _expand(
    inputs: Tensor, weights: Tensor, output: Tensor, runs: Iterator[tuple[slice, Tensor]], add_inputs: bool
) -> None:
    # An adapter and the model may have padded the outputs differently.
    columns = min(weights.shape[-2], output.shape[1])
    for rows, matrix in runs:
        product = inputs[rows].to(output.dtype) @ matrix[:columns].to(output.dtype).T
        target = output[rows, :columns]
        target.add_(product) if add_inputs else target.copy_(product)


def _runs(weights: Tensor, starts: Tensor, lengths: Tensor, adapters: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows with the same adapter, and its matrix."""
    for start, length, adapter in zip(starts.tolist(), lengths.tolist(), adapters.tolist(), strict=True):
        if adapter >= 0:
            matrix = weights[adapter]
            yield slice(start, start + length), matrix[0] if matrix.ndim == 3 else matrix
