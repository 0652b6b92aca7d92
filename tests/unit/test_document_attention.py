"""Packed rows of decoders computed document by document: the losses and gradients of masks, and nothing leaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rayloom.score import document_attention
from rayloom.score.batches import Batch, causal_batch
from rayloom.score.document_attention import DECODERS, IMPLEMENTATION, documents_for, use_documents
from rayloom.score.label_loss import LabelLoss
from rayloom.text.packed.shards import Row

VOCABULARY = 61
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip


def model_of(model_type: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    values: dict[str, Any] = SIZES | changes
    if model_type == "gpt2":
        values |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    else:
        values |= {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() == 2 else 1)  # or neighbours would hardly matter
    return model.train()


def row(*lengths: int, first: int = 0) -> Row:
    random = np.random.default_rng(sum(lengths))
    positions = np.concatenate([np.arange(length) for length in lengths])
    positions[: lengths[0]] += first
    return Row(random.integers(2, VOCABULARY, len(positions)), np.ones(len(positions), np.bool_), positions)


def batch() -> Batch:
    """The second row is shorter, so that it is padded."""
    return causal_batch([row(13, 5, 1, 9), row(7, 12)], padding_token=0)


@pytest.fixture(autouse=True)
def _for_short_rows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(document_attention.LEAST_POSITIONS, "cpu", 0)
    monkeypatch.setitem(document_attention.MOST_PAIRS_SHARE, "cpu", 1.0)


def loss_and_gradients(model: Any, rows: Batch) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = LabelLoss(model)(rows)
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("model_type", DECODERS)
def test_documents_give_the_losses_and_gradients_of_masks(model_type: str) -> None:
    model = model_of(model_type)
    expected, gradients = loss_and_gradients(model, batch())
    use_documents(model)
    assert documents_for(model, batch().positions, batch().document_lengths) is not None
    found, others = loss_and_gradients(model, batch())
    assert found == pytest.approx(expected, rel=1e-6)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_no_document_sees_another_one() -> None:
    model = model_of("llama")
    use_documents(model)
    whole = float(LabelLoss(model)(causal_batch([row(13), row(7)], padding_token=0)).detach())
    tokens = np.concatenate([row(13).tokens, row(7).tokens])
    positions = np.concatenate([np.arange(13), np.arange(7)])
    trained = np.ones(20, np.bool_)
    trained[13] = False
    packed = causal_batch([Row(tokens, trained, positions)], padding_token=0)
    assert float(LabelLoss(model)(packed).detach()) == pytest.approx(whole, rel=1e-6)


def test_a_row_that_begins_inside_a_document_is_not_joined_to_the_row_before() -> None:
    rows = causal_batch([row(6, 4), row(3, 7, first=5)], padding_token=0)
    assert rows.document_lengths == (6, 4, 3, 7)


def test_masks_are_used_where_they_are_as_fast_or_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = model_of("mistral"), batch()
    assert documents_for(model, rows.positions, rows.document_lengths) is None  # nobody asked for it
    use_documents(model)
    assert documents_for(model, rows.positions, rows.document_lengths) is not None
    model.config.sliding_window = 8
    assert documents_for(model, rows.positions, rows.document_lengths) is None
    model.config.sliding_window = None
    monkeypatch.setitem(document_attention.MOST_PAIRS_SHARE, "cpu", 0.1)
    assert documents_for(model, rows.positions, rows.document_lengths) is None


def test_a_saved_model_does_not_ask_for_it(tmp_path: Path) -> None:
    model = model_of("llama")
    use_documents(model)
    model.save_pretrained(tmp_path)
    assert IMPLEMENTATION not in json.loads((tmp_path / "config.json").read_text()).values()


def test_answers_are_those_of_sdpa() -> None:
    """Without documents, as in generating behind padding, it is the attention that it replaces."""
    model = model_of("llama").eval()
    prompt, mask = torch.tensor([[0, 0, 5, 9], [3, 8, 4, 7]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    said = {"input_ids": prompt, "attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(**said)
    use_documents(model)
    assert torch.equal(model.generate(**said), expected)
