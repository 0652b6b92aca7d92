"""Attention inside the documents of packed rows, without an S × S mask.

A mask rules out fused kernels, and scores are computed only to be masked. Here attention is computed for each document
by itself: on a GPU in one variable-length kernel, on a CPU one document after the other.

Shapes: B rows, S positions, H heads, D head size, T = B · S.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayloom.errors import InputError
from rayloom.score.parallel.axis import ALONE, Axis, exchanged

IMPLEMENTATION = "documents"
"""Name of this attention in transformers' registry."""
DECODERS = ("llama", "gpt2", "qwen2", "qwen3", "mistral", "mixtral", "olmoe", "qwen3_moe")
"""Model types that are tested to give the same result as with masks (tests/unit/test_document_attention.py)."""
LEAST_POSITIONS = {"cpu": 1024, "cuda": 0}
"""Shorter rows use masks, which are as fast there."""
MOST_PAIRS_SHARE = {"cpu": 0.6, "cuda": 1.0}
"""Largest share of position pairs in the same document; with a higher share a mask is faster."""


@dataclass(frozen=True)
class Documents:
    """The documents of a batch, row by row."""

    lengths: tuple[int, ...]
    starts: Tensor | None
    """(documents + 1,) int32 on the GPU: the offset of each document in the T positions, then T. None on a CPU."""
    longest: int
    """Upper bound of the lengths: the row's length, so that compiled kernels are not specialised for each batch."""


def use_documents(model: nn.Module) -> None:
    """Registers this attention for a decoder. It takes effect in calls with `documents`; others are unchanged."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config: Any = model.config
    if config.model_type in DECODERS and config._attn_implementation == "sdpa":
        AttentionInterface.register(IMPLEMENTATION, attention)
        AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
        config._attn_implementation = IMPLEMENTATION


def check_context(config: Any, num_parts: int, num_positions: int) -> None:
    """Raises InputError if rows cannot be cut among workers that have one of so many parts of the heads each."""
    fix = "Use sharding.tensor, or zero_stage 3 with activation_checkpointing."
    if config.model_type not in DECODERS:
        what = f"sharding.context does not cut the rows of a model of type {config.model_type}"
        raise InputError(what, fix=f"{fix} Models whose rows can be cut: {', '.join(DECODERS)}.")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < num_positions:
        raise InputError(f"sharding.context cuts no rows for attention in a window of {window} tokens", fix=fix)
    if config.num_attention_heads % num_parts:
        what = f"sharding.tensor × context is {num_parts}, which does not divide {config.num_attention_heads} heads"
        raise InputError(what, fix=f"Set them to {math.gcd(num_parts, config.num_attention_heads)} together.")


def documents_for(model: nn.Module, positions: Tensor, lengths: Sequence[int]) -> Documents | None:
    """The `documents` argument for a batch, or None if a mask is faster or the model needs one."""
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
    # From pinned memory, so that the copy is asynchronous.
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return Documents(tuple(lengths), ends.pin_memory().to(device, non_blocking=True), num_positions)


def _has_kernel(model: nn.Module, device: torch.device) -> bool:
    """Whether the variable-length kernel can be used: half precision, Ampere or later, no dropout."""
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
    context: Axis = ALONE,
    **more: Any,
) -> tuple[Tensor, None]:
    """(B, S, H, D) from query (B, H, S, D), key and value; called by transformers' attention layers.

    With `context`, S positions of a part of all: attention is then computed for a part of the heads, at all positions
    (Jacobs et al. 2023, DeepSpeed-Ulysses), so that documents and masks are those of one worker.
    """
    if context.size > 1:
        key, value = (_for_workers(heads, context.size) for heads in (key, value))
        query, key, value = (exchanged(heads, context, split=1, joined=2) for heads in (query, key, value))
        out = _of_all_positions(query, key, value, attention_mask, dropout, scaling, documents)
        return exchanged(out, context, split=1, joined=2), None
    if documents is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    return _by_documents(query, key, value, documents, dropout, scaling), None


def _of_all_positions(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    documents: Documents | None,
) -> Tensor:
    """(B, S, H, D) of some heads, by documents or with a mask."""
    if documents is not None:
        return _by_documents(query, key, value, documents, dropout, scaling)
    is_shared = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(
        query, key, value, mask, dropout, scale=scaling, enable_gqa=is_shared
    ).transpose(1, 2)


def _for_workers(heads: Tensor, num_workers: int) -> Tensor:
    """Key or value heads (B, H, S, D), each repeated until they divide among the workers."""
    return heads.repeat_interleave(math.lcm(heads.shape[1], num_workers) // heads.shape[1], dim=1)


def _by_documents(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, dropout: float, scaling: float | None
) -> Tensor:
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    if documents.starts is None:
        out = _one_after_the_other(q, k, v, documents.lengths, dropout, scaling)
    else:
        out = _in_one_kernel(q, k, v, documents.starts, documents.longest, scaling)
    return out.view(query.shape[0], query.shape[2], query.shape[1], -1)


def _one_after_the_other(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], dropout: float, scaling: float | None
) -> Tensor:
    """(T, H, D) by scaled dot-product attention for each document."""
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    parts = zip(*(torch.split(flat, list(lengths)) for flat in (query, key, value)), strict=True)
    outputs = []
    for of_document in parts:
        q, k, v = (part.transpose(0, 1)[None] for part in of_document)
        attended = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling)
        outputs.append(attended)
    return torch.cat([out[0].transpose(0, 1) for out in outputs])


def _in_one_kernel(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scaling: float | None
) -> Tensor:
    """(T, H, D) by torch's variable-length attention."""
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        query, key, value, starts, starts, longest, longest,
        scale=scaling, window_size=(-1, 0), enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    if not isinstance(out, Tensor):
        raise TypeError("varlen_attn gave more than its output")
    return out
