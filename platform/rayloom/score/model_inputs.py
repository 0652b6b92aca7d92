"""What a model is called with so that documents of a packed row do not see each other, by kind of architecture."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from rayloom.errors import InputError
from rayloom.score.batches import Batch
from rayloom.score.document_attention import documents_for

Kind = Literal["decoder", "encoder", "encoder-decoder"]

PACKED_ENCODERS = ("bert", "modernbert")
PACKED_ENCODER_DECODERS = ("t5", "mt5")
"""Model types whose packed rows are proven to give the same as single ones (tests/unit/test_packing.py)."""


def kind_of(config: Any) -> Kind:
    """Raises InputError for an encoder or encoder-decoder whose packing is not proven."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if getattr(config, "is_encoder_decoder", False):
        return _proven(config, "encoder-decoder", PACKED_ENCODER_DECODERS)
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return _proven(config, "encoder", PACKED_ENCODERS)
    return "decoder"


def _proven(config: Any, kind: Kind, types: tuple[str, ...]) -> Kind:
    if config.model_type not in types:
        what = f"Texts of one row would see each other in a model of type {config.model_type}"
        raise InputError(what, fix=f"Of the {kind} models, {' and '.join(types)} can be trained here.")
    return kind


def model_inputs(model: nn.Module, batch: Batch, has_virtual_tokens: bool) -> dict[str, Any]:
    """Keyword arguments for the model."""
    config: Any = model.config
    kind = kind_of(config)
    if kind == "encoder-decoder":
        return _encoder_decoder_inputs(model, batch)
    if kind == "encoder":
        mask = _encoder_mask(model, batch)
        return {"input_ids": batch.tokens, "attention_mask": mask, "position_ids": batch.positions}
    inputs: dict[str, Any] = {"input_ids": batch.tokens, "position_ids": batch.positions, "use_cache": False}
    documents = None if has_virtual_tokens else documents_for(model, batch.positions, batch.document_lengths)
    if documents is not None:
        # transformers hands a mask of four dimensions on as it is, so that it makes none.
        return inputs | {"attention_mask": batch.tokens.new_empty((0, 0, 0, 0)), "documents": documents}
    # Packing is found from positions only without cache and mask (transformers' masking_utils). Where virtual tokens
    # stand before the text, rows hold one text each, and its positions follow from its length.
    if has_virtual_tokens:
        del inputs["position_ids"]
    return inputs | {"attention_mask": None}


def _encoder_mask(model: nn.Module, batch: Batch) -> Any:
    config: Any = model.config
    documents = documents_of(batch.positions)
    whole = same_document(documents, documents)
    if config.model_type != "modernbert":
        return _taken(model, whole)
    local = near(whole, batch.positions, config.sliding_window)
    return {"full_attention": _taken(model, whole), "sliding_attention": _taken(model, local)}


def _encoder_decoder_inputs(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """The encoder runs here: transformers would use its mask for the decoder's look at it, where another one is due."""
    if batch.decoder_tokens is None or batch.decoder_positions is None:
        raise ValueError("an encoder-decoder needs batches with decoder tokens")
    texts, targets = documents_of(batch.positions), documents_of(batch.decoder_positions)
    encode: Any = model.get_encoder()  # type: ignore[operator]
    encoded = encode(input_ids=batch.tokens, attention_mask=_taken(model, same_document(texts, texts)))
    return {
        "encoder_outputs": encoded,
        "attention_mask": _taken(model, same_document(targets, texts)),
        "decoder_input_ids": batch.decoder_tokens,
        "decoder_attention_mask": _taken(model, causal(same_document(targets, targets))),
        "use_cache": False,
    }


def _taken(model: nn.Module, mask: Tensor) -> Tensor:
    config: Any = model.config
    return as_attention_takes_it(mask, config._attn_implementation, next(model.parameters()).dtype)


# Which positions of packed rows may see which, as masks that models take.
#
# Decoders find the boundaries in the positions by themselves. Encoders and encoder-decoders do not, so they get masks.
#
# Shapes: B rows, Q positions that look, K positions that are looked at.


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
