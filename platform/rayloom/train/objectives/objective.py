"""What a run minimises: how its rows are read, made into batches, and what a model loses on one.

The loop, the engines and the feed know nothing of it but this: a batch is tensors that know how many labels they have,
and calling the loss module with one gives the sum over those labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import nn

from rayloom.score.batches import Batch, causal_batch
from rayloom.score.label_loss import LabelLoss
from rayloom.text.packed.shards import TokenShards

Draw = tuple[int, ...]
"""Seed of a row's random choices: a function of its place in the run, so that a resumed run makes the same."""


class TrainBatch(Protocol):
    """Tensors of some rows."""

    @property
    def num_tokens(self) -> int:
        """Without padding."""

    @property
    def num_labels(self) -> int:
        """What the summed loss is divided by, over the whole global batch."""

    def to(self, device: torch.device) -> Self: ...
    def without_labels(self) -> Self:
        """The same work, from which nothing is learned."""


class StoredRows(Protocol):
    """Rows of a folder by number, from 0."""

    def __len__(self) -> int: ...
    def row(self, index: int) -> Any: ...


class Objective(Protocol):
    """One way to learn from rows."""

    def rows(self, folder: Path) -> StoredRows:
        """The rows of a folder."""

    def batch(self, rows: Sequence[Any], draws: Sequence[Draw]) -> TrainBatch:
        """These rows as tensors on the CPU. Whatever is random about a row follows from its draw."""

    def loss_of(self, model: nn.Module) -> nn.Module:
        """A module that holds the model as `model` and gives () the sum of a batch's losses."""


@dataclass(frozen=True)
class NextToken:
    """Every trained token from those before it (causal language modelling)."""

    sequence_length_tokens: int

    def rows(self, folder: Path) -> TokenShards:
        return TokenShards(folder, self.sequence_length_tokens)

    def batch(self, rows: Sequence[Any], draws: Sequence[Draw]) -> Batch:  # noqa: ARG002
        # Padding has no label and is seen by nobody, so any token will do.
        return causal_batch(rows, padding_token=0)

    def loss_of(self, model: nn.Module) -> LabelLoss:
        return LabelLoss(model)
