"""The interface of training objectives: how rows are read, how batches are made, and which module gives the loss.

The loop, the engines and the feed rely only on this: a batch knows its number of labels, and calling the loss module
with a batch gives the loss summed over those labels.
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
from rayloom.score.parallel.axis import ALONE, Axis
from rayloom.score.router_balance import BalancedLabelLoss
from rayloom.text.packed.shards import TokenShards

Draw = tuple[int, ...]
"""Seed of a row's random choices. It depends only on the position in the run, so a resumed run makes the same ones."""


class TrainBatch(Protocol):
    """Rows as tensors, for the loss module of their objective."""

    @property
    def num_tokens(self) -> int:
        """Tokens read, without padding."""

    @property
    def num_labels(self) -> int:
        """Labels; their sum over the global batch divides the summed loss."""

    def to(self, device: torch.device) -> Self: ...
    def without_labels(self) -> Self:
        """The same shapes without labels: the same computation, with zero loss and zero gradients."""


class StoredRows(Protocol):
    """Rows of a folder by number, from 0."""

    def __len__(self) -> int: ...
    def row(self, index: int) -> Any: ...


class Objective(Protocol):
    """A training objective."""

    def rows(self, folder: Path) -> StoredRows:
        """The rows of a folder."""

    def batch(self, rows: Sequence[Any], draws: Sequence[Draw]) -> TrainBatch:
        """The rows as tensors on the CPU. Random choices for a row depend only on its draw."""

    def loss_of(self, model: nn.Module) -> nn.Module:
        """A module that wraps the model (attribute `model`) and maps a batch to () its summed loss."""


@dataclass(frozen=True)
class NextToken:
    """Causal language modelling: predicts every trained token from the tokens before it."""

    sequence_length_tokens: int
    context: Axis = ALONE
    """The workers that have a part of the positions of each row."""
    router_balance: float | None = None
    """Weight of the loss that balances a mixture's router."""

    def rows(self, folder: Path) -> TokenShards:
        return TokenShards(folder, self.sequence_length_tokens)

    def batch(self, rows: Sequence[Any], draws: Sequence[Draw]) -> Batch:  # noqa: ARG002
        # Padding has no label and no other token attends to it, so any token will do.
        return causal_batch(rows, padding_token=0).part(self.context)

    def loss_of(self, model: nn.Module) -> LabelLoss:
        return LabelLoss(model) if self.router_balance is None else BalancedLabelLoss(model, self.router_balance)
