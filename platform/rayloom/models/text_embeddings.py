"""Texts as vectors: the mean of a model's last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rayloom.errors import InputError
from rayloom.models.context_length import context_tokens_of


@torch.no_grad()
def text_embeddings(
    folder: Path, tokenizer_folder: Path, texts: Sequence[str], micro_batch_sequences: int
) -> NDArray[np.float64]:
    """(texts, D) of length 1, so that products are cosines. A text longer than the model's context is cut."""
    from transformers.utils import logging

    from rayloom.pretrained import AutoModel, AutoTokenizer

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a head over the vocabulary is left out on purpose
    try:
        model: Any = AutoModel.from_pretrained(folder, use_safetensors=True).float().eval()
    except (OSError, ValueError, KeyError) as error:
        fix = "Name an encoder or language model with config.json and model.safetensors."
        what = f"The embedder cannot be loaded: {str(error).splitlines()[0]}"
        raise InputError(what, where=str(folder), fix=fix) from error
    finally:
        logging.set_verbosity(verbosity)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    cut: dict[str, Any] = {"truncation": True, "max_length": context_tokens_of(folder) or 2048}
    ids = tokenizer(list(texts), **cut)["input_ids"]
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    vectors = np.zeros((len(ids), model.config.hidden_size))
    for first in range(0, len(order), micro_batch_sequences):
        numbers = order[first : first + micro_batch_sequences]
        width = max(1, *(len(ids[number]) for number in numbers))
        rows = torch.tensor([[*ids[number], *[0] * (width - len(ids[number]))] for number in numbers])
        seen = torch.tensor([[1] * len(ids[number]) + [0] * (width - len(ids[number])) for number in numbers])
        rows, seen = rows.to(model.device), seen.to(model.device)
        states = model(input_ids=rows, attention_mask=seen).last_hidden_state
        means = (states * seen[:, :, None]).sum(dim=1) / seen.sum(dim=1, keepdim=True).clamp(min=1)
        vectors[numbers] = torch.nn.functional.normalize(means, dim=-1).cpu().numpy()
    return vectors
