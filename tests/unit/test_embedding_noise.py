"""NEFTune's noise: as large as the paper says, in training only, and the same from the same state."""

from __future__ import annotations

import math

import torch
from support.models import tiny_llama

from rayloom.train.weights.layers import add_embedding_noise


def test_noise_is_bounded_by_length_and_size_and_absent_in_evaluation() -> None:
    model = tiny_llama()
    ids = torch.arange(10)[None]
    plain = model.get_input_embeddings()(ids)
    add_embedding_noise(model, 5.0)
    assert torch.equal(model.eval().get_input_embeddings()(ids), plain)
    torch.manual_seed(3)
    noise = model.train().get_input_embeddings()(ids) - plain
    bound = 5.0 / math.sqrt(10 * 64)
    assert 0.9 * bound < noise.abs().max() <= bound * 1.0001
    torch.manual_seed(3)
    assert torch.equal(model.get_input_embeddings()(ids) - plain, noise)
