"""Batches of packed rows as tensors.

Shapes: B rows, S positions (the longest row's length).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from rayloom.score.parallel.axis import ALONE, Axis

NO_LABEL = -100
"""Label of positions without a label (torch's `ignore_index`)."""


class PackedRow(Protocol):
    """A packed row, from any source."""

    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def trained(self) -> NDArray[np.bool_]: ...
    @property
    def positions(self) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class Batch:
    """Rows of several documents each. A document begins at position 0; documents must not attend to each other."""

    tokens: torch.Tensor
    """(B, S) token ids."""
    positions: torch.Tensor
    """(B, S) position in the document."""
    labels: torch.Tensor
    """(B, S) the token to predict at each position, or NO_LABEL."""
    num_tokens: int
    """Tokens of text, without padding."""
    decoder_tokens: torch.Tensor | None = None
    """(B, T) decoder input of an encoder-decoder; `labels` then have this shape."""
    decoder_positions: torch.Tensor | None = None
    """(B, T) position in the document's target; the n-th target of a row belongs to its n-th document."""
    soft_tokens: torch.Tensor | None = None
    """(N, k) the tokens that a teacher finds most probable at each label, where that was recorded."""
    soft_log_p: torch.Tensor | None = None
    """(N, k) their log-probabilities."""
    known_label_indices: torch.Tensor | None = None
    known_document_lengths: tuple[int, ...] | None = None
    """Both are computed before the batch moves to a device, to avoid synchronising with the device later."""
    context: Axis = ALONE
    """The workers that have a part of the positions of these rows each; here are this worker's."""
    row_positions: torch.Tensor | None = None
    """(B, positions of all of them) as `positions`; None if they are all here."""
    embedded: torch.Tensor | None = None
    """(B, S, D) hidden states that a decoder reads instead of the tokens' embeddings (pipelines)."""

    @property
    def num_labels(self) -> int:
        return int((self.labels != NO_LABEL).sum())

    @property
    def label_indices(self) -> torch.Tensor:
        """(N,) indices of labelled positions in the flattened batch."""
        if self.known_label_indices is not None:
            return self.known_label_indices
        return torch.nonzero(self.labels.flatten() != NO_LABEL).flatten()

    @property
    def document_lengths(self) -> tuple[int, ...]:
        """Lengths of all documents, row by row; the padding of a row counts as a document."""
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

    def part(self, context: Axis) -> Self:
        """This worker's positions of a causal batch, and how long the documents are that they belong to.

        Rows are padded by a document without labels, so that each worker has equally many.
        """
        if context.size == 1:
            return self
        padding = -self.tokens.shape[1] % context.size
        tokens = functional.pad(self.tokens, (0, padding))
        labels = functional.pad(self.labels, (0, padding), value=NO_LABEL)
        ends = torch.arange(padding).expand(len(tokens), -1)
        whole = replace(self, positions=torch.cat([self.positions, ends], dim=1))
        own = slice(*context.share(tokens.shape[1]))
        return replace(
            self,
            tokens=tokens[:, own].contiguous(),
            positions=whole.positions[:, own].contiguous(),
            labels=labels[:, own].contiguous(),
            num_tokens=self.num_tokens if context.rank == 0 else 0,
            known_document_lengths=whole.document_lengths,
            context=context,
            row_positions=whole.positions,
        )

    def padded(self, num_rows: int, num_positions: int) -> Self:
        """A causal batch of so many rows and positions: what is added are documents without labels."""
        rows, positions = num_rows - len(self.tokens), num_positions - self.tokens.shape[1]
        if rows == positions == 0:
            return self
        ends = torch.cat([self.positions, torch.arange(positions).expand(len(self.positions), -1)], dim=1)
        return replace(
            self,
            tokens=functional.pad(self.tokens, (0, positions, 0, rows)),
            positions=torch.cat([ends, torch.arange(num_positions).expand(rows, -1)]),
            labels=functional.pad(self.labels, (0, positions, 0, rows), value=NO_LABEL),
        )

    def without_labels(self) -> Self:
        """The same shapes without labels: the same computation, with zero loss and zero gradients."""
        labels = torch.full_like(self.labels, NO_LABEL)
        nothing: dict[str, Any] = {"soft_tokens": None, "soft_log_p": None, "known_label_indices": None}
        return replace(self, labels=labels, num_tokens=0, **nothing)


def moved(batch: Any, device: torch.device) -> dict[str, Any]:
    """A dataclass' tensors on the device, by field. To a GPU they are copied asynchronously from pinned memory."""
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {
        name: (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)
        for name, value in tensors.items()
        if isinstance(value, torch.Tensor)
    }


def stacked(rows: Sequence[NDArray[np.int64]], filler: int) -> torch.Tensor:
    """(rows, longest row), padded at the end. Position 0 as padding makes each padding token a document of its own."""
    out = np.full((len(rows), max(len(row) for row in rows)), filler, np.int64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return torch.from_numpy(out)


def causal_batch(rows: Sequence[PackedRow], padding_token: int) -> Batch:
    """A batch in which each position predicts the next token of its row, if that token is trained on.

    Shorter rows are padded at the end by a document without labels.
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
