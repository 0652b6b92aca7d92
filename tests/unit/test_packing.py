"""Packed rows give each document the numbers that it would have alone, for every architecture and attention offered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import nn
from transformers import RobertaConfig

from rayloom.errors import InputError
from rayloom.score.batches import NO_LABEL, Batch, causal_batch
from rayloom.score.label_loss import LabelLoss
from rayloom.score.model_inputs import kind_of
from rayloom.specs.training.architectures import Architecture
from rayloom.text.packed.shards import Row
from rayloom.train.weights.architectures import config_of, model_of

VOCABULARY = 61
TINY = {"num_layers": 4, "hidden_size": 32, "num_heads": 4, "feed_forward_size": 48}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"type": "decoder", "num_key_value_heads": 2, "max_positions": 64},
    "gpt2": {"type": "decoder", "family": "gpt2", "max_positions": 64},
    "bert": {"type": "encoder", "max_positions": 64},
    "modernbert": {"type": "encoder", "family": "modernbert", "max_positions": 64},
    "t5": {"type": "encoder-decoder", "num_decoder_layers": 2},
}


def model_for(name: str, attention: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    shape: Any = TypeAdapter(Architecture).validate_python(TINY | SHAPES[name])
    config = config_of(shape, VOCABULARY, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    if name == "modernbert":
        config.local_attention = 8  # smaller than the documents, or it would be tried nowhere
    config._attn_implementation = attention
    model = model_of(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh weights are so small that neighbours hardly matter.
            parameter.mul_(4 if parameter.dim() == 2 and name != "t5" else 1)
    return model


def documents() -> list[NDArray[np.int64]]:
    random = np.random.default_rng(0)
    return [random.integers(2, VOCABULARY, size) for size in (13, 5, 9, 17)]


def batch_of(name: str, rows: list[list[NDArray[np.int64]]]) -> Batch:
    """Rows of documents, each with labels, whatever the objective makes of them."""
    packed = []
    for row in rows:
        positions = np.concatenate([np.arange(len(document)) for document in row])
        packed.append(Row(np.concatenate(row), positions != 0, positions))
    causal = causal_batch(packed, 0)
    if name in ("llama", "gpt2"):
        return causal
    is_text = torch.zeros_like(causal.tokens, dtype=torch.bool)
    for index, found in enumerate(packed):
        is_text[index, : len(found.tokens)] = True
    labels = torch.where(is_text & (causal.tokens % 3 == 0), causal.tokens, NO_LABEL)
    if name != "t5":
        return replace(causal, labels=labels)
    # The decoder writes the first four tokens of each document.
    width = max(4 * len(row) for row in rows)
    decoder = torch.zeros((len(rows), width), dtype=torch.int64)
    places = torch.zeros_like(decoder)
    targets = torch.full_like(decoder, NO_LABEL)
    for index, row in enumerate(rows):
        for number, document in enumerate(row):
            part = slice(4 * number, 4 * number + 4)
            targets[index, part] = torch.from_numpy(document[:4])
            decoder[index, part] = torch.from_numpy(np.concatenate([[0], document[:3]]))
            places[index, part] = torch.arange(4)
    return replace(causal, labels=targets, decoder_tokens=decoder, decoder_positions=places)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", SHAPES)
def test_documents_in_a_row_do_not_see_each_other(name: str, attention: str) -> None:
    loss = LabelLoss(model_for(name, attention))
    parts = documents()
    with torch.no_grad():
        alone = sum(loss(batch_of(name, [[document]])).item() for document in parts)
        together = loss(batch_of(name, [parts[:2], parts[2:]])).item()
        assert together == pytest.approx(alone, rel=1e-5)
        # The measure is fine enough to see a leak: one document where there were two is something else.
        joined = loss(batch_of(name, [[np.concatenate(parts[:2])], parts[2:]])).item()
    assert abs(joined - alone) > 1e-3


@pytest.mark.parametrize("name", ["bert", "modernbert", "t5"])
def test_a_document_does_not_change_with_its_neighbour(name: str) -> None:
    loss = LabelLoss(model_for(name))
    one, *_, other = documents()
    changed = other.copy()
    changed[:] = 7
    with torch.no_grad():
        found = []
        for neighbour in (other, changed):
            batch = batch_of(name, [[one, neighbour]])
            keep = torch.zeros_like(batch.labels, dtype=torch.bool)
            keep[:, : 4 if name == "t5" else len(one)] = True
            found.append(loss(replace(batch, labels=batch.labels.where(keep, NO_LABEL))).item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_every_weight_learns_from_packed_rows(name: str) -> None:
    model = model_for(name)
    LabelLoss(model)(batch_of(name, [documents()])).backward()
    unmoved = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert unmoved == []


def test_models_whose_packing_is_not_proven_are_refused() -> None:
    with pytest.raises(InputError, match=r"model of type roberta.*bert and modernbert"):
        kind_of(RobertaConfig())


def test_other_attention_is_refused_rather_than_wrong() -> None:
    model = model_for("bert")
    model.config._attn_implementation = "flex_attention"  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="takes no masks of documents"):
        LabelLoss(model)(batch_of("bert", [documents()]))
