"""Packed rows as tensors that a model reads.

Shapes: B rows, S positions (the longest row's length).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

NO_LABEL = -100
"""Marks a position that predicts nothing."""


class PackedRow(Protocol):
    """What a row must have, wherever it was read from."""

    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def trained(self) -> NDArray[np.bool_]: ...
    @property
    def positions(self) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class Batch:
    """Rows of several documents each. A document begins where its position is 0 and must not see its neighbours."""

    tokens: torch.Tensor
    """(B, S) token ids."""
    positions: torch.Tensor
    """(B, S) place inside the document."""
    labels: torch.Tensor
    """(B, S) the token that this position must predict, or NO_LABEL."""
    num_tokens: int
    """Of text, without padding."""
    decoder_tokens: torch.Tensor | None = None
    """(B, T) what an encoder-decoder's decoder reads; `labels` are then (B, T) and belong to these."""
    decoder_positions: torch.Tensor | None = None
    """(B, T) place inside the document's target; the n-th target of a row belongs to its n-th document."""
    known_label_indices: torch.Tensor | None = None
    known_document_lengths: tuple[int, ...] | None = None
    """Both worked out before the batch moves to a device, so that nothing has to wait for that device later."""

    @property
    def num_labels(self) -> int:
        return int((self.labels != NO_LABEL).sum())

    @property
    def label_indices(self) -> torch.Tensor:
        """(N,) of the positions that have a label, counted through all rows."""
        if self.known_label_indices is not None:
            return self.known_label_indices
        return torch.nonzero(self.labels.flatten() != NO_LABEL).flatten()

    @property
    def document_lengths(self) -> tuple[int, ...]:
        """Of all rows' documents, row after row; padding counts as one."""
        if self.known_document_lengths is not None:
            return self.known_document_lengths
        begins = self.positions.numpy() == 0
        begins[:, 0] = True
        return tuple(np.diff(np.flatnonzero(begins), append=begins.size).tolist())

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu":
            return self
        known = replace(self, known_label_indices=self.label_indices, known_document_lengths=self.document_lengths)
        return replace(known, **moved(known, device))

    def without_labels(self) -> Self:
        """The same work, from which nothing is learned."""
        labels = torch.full_like(self.labels, NO_LABEL)
        return replace(self, labels=labels, num_tokens=0, known_label_indices=None)


def moved(batch: Any, device: torch.device) -> dict[str, Any]:
    """A dataclass' tensors on the device, by field; through pinned memory, so that copying needs no waiting."""
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {
        name: (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)
        for name, value in tensors.items()
        if isinstance(value, torch.Tensor)
    }


def causal_batch(rows: Sequence[PackedRow], padding_token: int) -> Batch:
    """Each position predicts the next token of its row where that token is trained.

    Shorter rows are filled up at their end with a document of padding that has no label and that nobody sees.
    """
    length = max(len(row.tokens) for row in rows)
    tokens = np.full((len(rows), length), padding_token, np.int64)
    positions = np.zeros((len(rows), length), np.int64)
    labels = np.full((len(rows), length), NO_LABEL, np.int64)
    for index, row in enumerate(rows):
        size = len(row.tokens)
        tokens[index, :size] = row.tokens
        positions[index, :size] = row.positions
        positions[index, size:] = np.arange(length - size)
        labels[index, : size - 1] = np.where(row.trained[1:], row.tokens[1:], NO_LABEL)
    num_tokens = sum(len(row.tokens) for row in rows)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(positions), torch.from_numpy(labels), num_tokens)
