"""Which positions of packed rows may see which, as masks that models take.

Decoders find the boundaries in the positions by themselves. Encoders and encoder-decoders do not, so they get masks.

Shapes: B rows, Q positions that look, K positions that are looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor


def documents_of(positions: Tensor) -> Tensor:
    """(B, S) number of each position's document in its row; a document begins where its position is 0."""
    return (positions == 0).cumsum(dim=1)


def same_document(looking: Tensor, seen: Tensor) -> Tensor:
    """(B, 1, Q, K) whether both lie in the same document, from documents (B, Q) and (B, K).

    A position whose document has nothing to be seen sees everything: attention over nothing is not a number. Nobody may
    have a label there, which holds for padding.
    """
    mask = looking[:, None, :, None] == seen[:, None, None, :]
    return mask | ~mask.any(dim=-1, keepdim=True)


def causal(mask: Tensor) -> Tensor:
    """The mask without what comes later; (B, 1, S, S)."""
    return mask.tril()


def near(mask: Tensor, positions: Tensor, reach: int) -> Tensor:
    """The mask without what stands more than `reach` positions away; documents are contiguous, so places count."""
    distance = (positions[:, None, :, None] - positions[:, None, None, :]).abs()
    return mask & (distance <= reach)


def as_attention_takes_it(mask: Tensor, implementation: str, dtype: torch.dtype) -> Tensor:
    """True and False for sdpa; 0 and the lowest number, to be added, for eager. Others take no such masks."""
    if implementation == "sdpa":
        return mask
    if implementation == "eager":
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
    raise ValueError(f"attention {implementation} takes no masks of documents: load the model with sdpa")
