"""Attention inside the documents of packed rows, without a mask of row length × row length.

A mask rules out the kernels that keep no scores, and computes what it then hides. Here each document is computed by
itself: on a GPU in one kernel that takes where documents begin, on a CPU one document after the other.

Shapes: B rows, S positions, H heads, D head size, T = B · S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

IMPLEMENTATION = "documents"
"""The name under which transformers finds this attention."""
DECODERS = ("llama", "gpt2", "qwen2", "qwen3", "mistral")
"""Model types whose packed rows are proven to give the same as with masks (tests/unit/test_document_attention.py)."""
LEAST_POSITIONS = {"cpu": 1024, "cuda": 0}
"""Shorter rows are as fast with masks."""
MOST_PAIRS_SHARE = {"cpu": 0.6, "cuda": 1.0}
"""Of the pairs of positions of a row, those that lie in one document. With more of them a mask costs less."""


@dataclass(frozen=True)
class Documents:
    """The documents of all rows of a batch, one row after the other."""

    lengths: tuple[int, ...]
    starts: Tensor | None
    """(documents + 1,) int32 on the GPU: where each begins among the T positions, and T."""
    longest: int
    """At least the longest one's length; the row's length, so that compiled kernels serve every batch."""


def use_documents(model: nn.Module) -> None:
    """Makes a decoder attend by documents when it is given them. Without them, it computes what it did before."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config: Any = model.config
    if config.model_type in DECODERS and config._attn_implementation == "sdpa":
        AttentionInterface.register(IMPLEMENTATION, attention)
        AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
        config._attn_implementation = IMPLEMENTATION


def documents_for(model: nn.Module, positions: Tensor, lengths: Sequence[int]) -> Documents | None:
    """What to give the model for a batch, or None if masks are as fast there or the model needs them."""
    config: Any = model.config
    device, (num_rows, num_positions) = positions.device, positions.shape
    if config._attn_implementation != IMPLEMENTATION or num_positions < LEAST_POSITIONS.get(device.type, 1 << 62):
        return None
    window = getattr(config, "sliding_window", None)
    pairs = sum(length * length for length in lengths) / (num_rows * num_positions**2)
    if (window is not None and window < num_positions) or pairs > MOST_PAIRS_SHARE[device.type]:
        return None
    if device.type == "cpu":
        return Documents(tuple(lengths), None, num_positions)
    if not _has_kernel(model, device):
        return None
    # From pinned memory, so that nothing waits for the device.
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return Documents(tuple(lengths), ends.pin_memory().to(device, non_blocking=True), num_positions)


def _has_kernel(model: nn.Module, device: torch.device) -> bool:
    """The kernel is for half precision on Ampere and later, and has no dropout."""
    config: Any = model.config
    dropout = getattr(config, "attention_dropout", 0.0) or getattr(config, "attn_pdrop", 0.0)
    is_half = next(model.parameters()).dtype in (torch.bfloat16, torch.float16)
    return is_half and torch.cuda.get_device_capability(device)[0] >= 8 and not (model.training and dropout)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: Documents | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """(B, S, H, D) from query (B, H, S, D), key and value; called by transformers' attention layers."""
    if documents is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    if documents.starts is None:
        out = _one_after_the_other(q, k, v, documents.lengths, dropout, scaling)
    else:
        out = _in_one_kernel(q, k, v, documents.starts, documents.longest, scaling)
    return out.view(query.shape[0], query.shape[2], query.shape[1], -1), None


def _one_after_the_other(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], dropout: float, scaling: float | None
) -> Tensor:
    """(T, H, D)"""
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    parts = zip(*(torch.split(flat, list(lengths)) for flat in (query, key, value)), strict=True)
    found = []
    for of_document in parts:
        q, k, v = (part.transpose(0, 1)[None] for part in of_document)
        attended = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling)
        found.append(attended)
    return torch.cat([out[0].transpose(0, 1) for out in found])


def _in_one_kernel(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scaling: float | None
) -> Tensor:
    """(T, H, D)"""
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        query, key, value, starts, starts, longest, longest,
        scale=scaling, window_size=(-1, 0), enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    if not isinstance(out, Tensor):
        raise TypeError("varlen_attn gave more than its output")
    return out
