"""Model inputs for packed rows, by kind of architecture: masks that keep documents from attending to each other."""

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
"""Model types that are tested to give the same result for packed and single documents (tests/unit/test_packing.py)."""


def kind_of(config: Any, *, is_packed: bool = True) -> Kind:
    """The model's kind. Raises InputError for an encoder or encoder-decoder that is not tested with packed rows, unless
    rows hold one text each."""
    from rayloom.pretrained import masked_model_types

    if getattr(config, "is_encoder_decoder", False):
        return _proven(config, "encoder-decoder", PACKED_ENCODER_DECODERS)
    if config.model_type in masked_model_types() and not getattr(config, "is_decoder", False):
        return _proven(config, "encoder", PACKED_ENCODERS) if is_packed else "encoder"
    return "decoder"


def _proven(config: Any, kind: Kind, types: tuple[str, ...]) -> Kind:
    if config.model_type not in types:
        what = f"Texts of one row would see each other in a model of type {config.model_type}"
        raise InputError(what, fix=f"Of the {kind} models, {' and '.join(types)} can be trained here.")
    return kind


def model_inputs(model: nn.Module, batch: Batch, has_virtual_tokens: bool) -> dict[str, Any]:
    """Keyword arguments of the model for a batch."""
    config: Any = model.config
    kind = kind_of(config)
    if kind == "encoder-decoder":
        return _encoder_decoder_inputs(model, batch)
    if kind == "encoder":
        mask = _encoder_mask(model, batch)
        return {"input_ids": batch.tokens, "attention_mask": mask, "position_ids": batch.positions}
    inputs: dict[str, Any] = {"position_ids": batch.positions, "use_cache": False}
    inputs |= {"input_ids": batch.tokens} if batch.embedded is None else {"inputs_embeds": batch.embedded}
    positions = batch.positions if batch.row_positions is None else batch.row_positions
    documents = None if has_virtual_tokens else documents_for(model, positions, batch.document_lengths)
    if batch.context.size > 1:
        # In attention, a worker has some heads of all positions (see `document_attention`).
        inputs["context"] = batch.context
    if documents is not None:
        # transformers passes a 4-D mask on unchanged, so an empty one stops it from making its own.
        return inputs | {"attention_mask": batch.tokens.new_empty((0, 0, 0, 0)), "documents": documents}
    if batch.row_positions is not None:
        texts = documents_of(batch.row_positions)
        return inputs | {"attention_mask": causal(same_document(texts, texts))}
    # transformers derives packing from positions only without cache and mask (masking_utils). With virtual tokens, rows
    # hold one text each, and the model counts the positions itself.
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
    """Inputs with the encoder's output, as transformers would use the encoder's mask for cross-attention too."""
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


# Attention masks of packed rows.
#
# Decoders derive document boundaries from positions. Encoders and encoder-decoders do not, so they need masks.
#
# Shapes: B rows, Q query positions, K key positions.


def documents_of(positions: Tensor) -> Tensor:
    """(B, S) index of each position's document in its row. A document begins at position 0."""
    return (positions == 0).cumsum(dim=1)


def same_document(looking: Tensor, seen: Tensor) -> Tensor:
    """(B, 1, Q, K) mask that is true if query and key are in the same document. Documents are (B, Q) and (B, K).

    A query without any key attends to all keys, since softmax over nothing is NaN. Such positions, which are padding,
    must not have a label.
    """
    mask = looking[:, None, :, None] == seen[:, None, None, :]
    return mask | ~mask.any(dim=-1, keepdim=True)


def causal(mask: Tensor) -> Tensor:
    """(B, 1, S, S) the mask without keys after the query."""
    return mask.tril()


def near(mask: Tensor, positions: Tensor, reach: int) -> Tensor:
    """The mask without keys more than `reach` positions away (sliding window)."""
    distance = (positions[:, None, :, None] - positions[:, None, None, :]).abs()
    return mask & (distance <= reach)


def as_attention_takes_it(mask: Tensor, implementation: str, dtype: torch.dtype) -> Tensor:
    """The mask in the form of an attention implementation: boolean for sdpa, additive (0 or lowest value) for eager.

    Raises ValueError for others, which do not take such masks.
    """
    if implementation == "sdpa":
        return mask
    if implementation == "eager":
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
    raise ValueError(f"attention {implementation} takes no masks of documents: load the model with sdpa")
