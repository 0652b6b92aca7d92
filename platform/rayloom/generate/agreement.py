"""On which of several answers most agree: by text, by number, by label, or by the similarity of embeddings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayloom.specs.generation.tasks import ConsistencyTask

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


class Consensus(NamedTuple):
    """The place of an answer, and how many agree with it, itself included; 0 if none can be compared."""

    place: int
    size: int


def agreement_by(task: ConsistencyTask, embedder: Path | None) -> Callable[[list[str]], Consensus]:
    """The function that the task asks for. `embedder`: folder of its encoder."""
    if task.agree_by == "embedding":
        assert embedder is not None
        embed = Embedder(embedder)
        return lambda texts: by_similarity(embed, texts, task.similarity_threshold)

    def compared(text: str) -> Hashable:
        if task.after is not None:
            _, mark, text = text.rpartition(task.after)
            if not mark:
                return None
        if task.agree_by == "label":
            return named_label(text, task.labels)
        return last_number(text) if task.agree_by == "numeric" else " ".join(text.casefold().split()) or None

    return lambda texts: most_frequent([compared(text) for text in texts])


def most_frequent(values: Sequence[Hashable]) -> Consensus:
    """The first place of the value that occurs most; None is no value. Of equally frequent ones, the first."""
    counts = Counter(value for value in values if value is not None)
    if not counts:
        return Consensus(0, 0)
    value, size = counts.most_common(1)[0]
    return Consensus(values.index(value), size)


def last_number(text: str) -> Decimal | None:
    """The last number of a text, so that 1,200 and 1200.0 are the same; None if there is none."""
    found = _NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")).normalize() if found else None
    except InvalidOperation:
        return None


def named_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that stands first in a text as a whole word, in any case; at one place the longest."""
    places = [
        (match.start(), -len(label), label)
        for label in labels
        if (match := re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, re.IGNORECASE))
    ]
    return min(places)[2] if places else None


def by_similarity(
    embed: Callable[[Sequence[str]], NDArray[np.float32]], texts: Sequence[str], least: float
) -> Consensus:
    """The text to which most are at least so similar."""
    if not texts:
        return Consensus(0, 0)
    vectors = embed(texts)
    near = (vectors @ vectors.T >= least - 1e-6).sum(axis=1)
    return Consensus(int(near.argmax()), int(near.max()))


class Embedder:
    """Unit vectors of texts: the mean of an encoder's last layer over the tokens (Reimers & Gurevych 2019)."""

    def __init__(self, folder: Path) -> None:
        import torch

        from rayloom.pretrained import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch

        inputs = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            states = self._model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        means = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(means).numpy()
        return vectors
