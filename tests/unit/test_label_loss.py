"""The loss of packed rows: exact, without leaks, and only where there is a label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, LlamaConfig, Qwen3Config

from rayloom.score import label_loss
from rayloom.score.batches import NO_LABEL, Batch, causal_batch
from rayloom.score.label_loss import LabelLoss

VOCABULARY = 61
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama-tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES),
    "gemma2": Gemma2Config(**SIZES, sliding_window=4, query_pre_attn_scalar=8),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=4, query_pre_attn_scalar=8),
}


@dataclass
class Packed:
    tokens: NDArray[np.int64]
    trained: NDArray[np.bool_]
    positions: NDArray[np.int64]


def packed(documents: list[NDArray[np.int64]]) -> Packed:
    tokens = np.concatenate(documents)
    positions = np.concatenate([np.arange(len(d)) for d in documents])
    return Packed(tokens, positions != 0, positions)


def fresh(name: str, attention: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation=attention)
    return model.eval()


@pytest.fixture
def documents() -> list[NDArray[np.int64]]:
    random = np.random.default_rng(1)
    return [random.integers(3, VOCABULARY, size) for size in (7, 12, 5, 9, 3)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_packed_rows_give_the_loss_of_their_documents_alone(
    name: str, attention: str, documents: list[NDArray[np.int64]]
) -> None:
    loss = LabelLoss(fresh(name, attention))
    with torch.no_grad():
        alone = sum(loss(causal_batch([packed([d])], 0)).item() for d in documents)
        together = loss(causal_batch([packed(documents[:3]), packed(documents[3:])], 0)).item()
    assert together == pytest.approx(alone, abs=2e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_and_its_gradients_are_those_of_whole_logits(
    name: str, documents: list[NDArray[np.int64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(label_loss.CHUNK_LOGITS, "cpu", 4 * VOCABULARY)  # chunks of four positions
    model = fresh(name)
    batch = causal_batch([packed(documents[:2]), packed(documents[2:])], 0)
    LabelLoss(model)(batch).mul(0.5).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits = model(input_ids=batch.tokens, position_ids=batch.positions, attention_mask=None, use_cache=False).logits  # type: ignore[operator]
    whole = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), batch.labels.flatten(), ignore_index=NO_LABEL, reduction="sum"
    )
    whole.mul(0.5).backward()
    assert len(found) == sum(1 for p in model.parameters() if p.grad is not None) > 10
    for parameter_name, parameter in model.named_parameters():
        assert torch.allclose(found[parameter_name], parameter.grad, atol=2e-4), parameter_name


def test_a_batch_without_labels_has_loss_and_gradients_of_zero() -> None:
    for name in ("llama", "gemma2"):
        model = fresh(name)
        tokens = torch.full((1, 8), 5)
        loss = LabelLoss(model)(Batch(tokens, torch.arange(8)[None], torch.full((1, 8), NO_LABEL), 8))
        loss.backward()
        assert loss.item() == 0.0
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_collating_shifts_labels_and_pads_with_a_document_of_its_own() -> None:
    long = packed([np.asarray([4, 5, 6]), np.asarray([7, 8])])
    short = Packed(np.asarray([9, 10, 11]), np.asarray([False, False, True]), np.asarray([0, 1, 2]))
    batch = causal_batch([long, short], 0)
    assert batch.tokens.tolist() == [[4, 5, 6, 7, 8], [9, 10, 11, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 0, 1]]
    none = NO_LABEL
    assert batch.labels.tolist() == [[5, 6, none, 8, none], [none, 11, none, none, none]]
    assert (batch.num_labels, batch.num_tokens) == (4, 8)
