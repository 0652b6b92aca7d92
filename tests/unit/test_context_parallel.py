"""Rows whose positions are spread over workers against whole rows: loss and gradients, with documents kept apart."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from support.threads import Exchange, ThreadAxis, on_threads
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from rayloom.errors import InputError
from rayloom.score import document_attention
from rayloom.score.batches import NO_LABEL, Batch
from rayloom.score.document_attention import check_context, use_documents
from rayloom.score.label_loss import LabelLoss
from rayloom.score.parallel.axis import Axis
from rayloom.train.weights.layout import make_parts
from rayloom.train.weights.parts import whole

VOCABULARY = 67
LENGTHS = [9, 4, 8]
"""Of a row's documents: 21 positions, which two workers do not share evenly; none ends where they are cut."""


def model_of(model_type: str, **changes: Any) -> nn.Module:
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }  # fmt: skip
    if model_type == "gpt2":
        shape = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
        shape |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.3}
    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(shape | changes)))
    use_documents(model)
    return model.train()  # type: ignore[no-any-return]


def batch() -> Batch:
    random = np.random.default_rng(5)
    tokens, labels = (torch.from_numpy(random.integers(0, VOCABULARY, (2, sum(LENGTHS)))) for _ in range(2))
    labels[:, ::5] = NO_LABEL
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).expand(2, -1)
    return Batch(tokens, positions, labels, 2 * sum(LENGTHS))


def gradients(model: nn.Module, given: Batch) -> tuple[float, dict[str, Tensor]]:
    loss = LabelLoss(model)(given)
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_sums_to(expected: tuple[float, dict[str, Tensor]], found: list[tuple[float, dict[str, Tensor]]]) -> None:
    assert sum(loss for loss, _ in found) == pytest.approx(expected[0], rel=1e-6)
    for name, gradient in expected[1].items():
        total = torch.stack([gradients[name] for _, gradients in found]).sum(dim=0)
        error = float((total - gradient).abs().max() / gradient.abs().max())
        assert error < 1e-5, (name, error)


@pytest.mark.parametrize("by_documents", [True, False], ids=["documents", "masks"])
@pytest.mark.parametrize(("model_type", "num_workers"), [("llama", 2), ("llama", 4), ("gpt2", 2), ("qwen3", 2)])
def test_parts_of_rows_give_the_loss_and_gradients_of_whole_rows(
    model_type: str, num_workers: int, by_documents: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_attention, "LEAST_POSITIONS", {"cpu": 0 if by_documents else 1024})
    model, given = model_of(model_type), batch()
    expected = gradients(copy.deepcopy(model), given)
    parts = on_threads(num_workers, lambda axis: gradients(copy.deepcopy(model), given.part(axis)))
    assert_sums_to(expected, parts)


def test_parts_of_rows_and_of_matrices_together() -> None:
    model, given = model_of("llama"), batch()
    expected = gradients(copy.deepcopy(model), given)
    across = [Exchange(2) for _ in range(2)]

    def on_worker(context: Axis) -> list[tuple[float, dict[str, Tensor]]]:
        """Both workers that have these positions, each with its part of the matrices."""

        def on_part(tensor: Axis) -> tuple[float, dict[str, Tensor]]:
            own = copy.deepcopy(model)
            make_parts(own, None, tensor, torch.device("cpu"), torch.float32)
            same_part = ThreadAxis(context.rank, 2, None, across[tensor.rank])
            loss, found = gradients(own, given.part(same_part))
            return loss, {name: whole(own.get_parameter(name), grad, tensor) for name, grad in found.items()}

        return on_threads(2, on_part)

    by_context = on_threads(2, on_worker)
    for tensor_rank in range(2):
        assert_sums_to(expected, [parts[tensor_rank] for parts in by_context])


def test_tokens_and_labels_are_counted_once() -> None:
    parts = [batch().part(Axis(rank, 4)) for rank in range(4)]
    assert sum(part.num_tokens for part in parts) == batch().num_tokens
    assert sum(part.num_labels for part in parts) == batch().num_labels
    assert {part.tokens.shape for part in parts} == {(2, 6)}
    assert torch.equal(torch.cat([part.labels for part in parts], dim=1)[:, :21], batch().labels)


@pytest.mark.parametrize(
    ("model_type", "changes", "num_parts", "said"),
    [
        ("llama", {}, 3, "does not divide 4 heads"),
        ("mistral", {"sliding_window": 8}, 2, "window of 8 tokens"),
        ("gemma", {}, 2, "rows of a model of type gemma.*llama"),
    ],
)
def test_what_cannot_be_cut_is_refused(model_type: str, changes: dict[str, Any], num_parts: int, said: str) -> None:
    with pytest.raises(InputError) as refused:
        check_context(model_of(model_type, **changes).config, num_parts, 21)
    assert re.search(said, str(refused.value).replace("\n", " "))
