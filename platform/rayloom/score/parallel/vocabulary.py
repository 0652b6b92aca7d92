"""Embeddings and output head of which each worker has the rows of some tokens, and the cross-entropy over all of them.

Shapes: C positions, V vocabulary, P tokens of this worker's part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayloom.score.parallel.axis import Axis, left


@dataclass(frozen=True)
class SplitVocabulary:
    """This worker's tokens: those from `begin` on, up to `end`."""

    begin: int
    end: int
    axis: Axis

    def found(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the tokens are this worker's, and their numbers in its part; any number for the others."""
        is_own = (tokens >= self.begin) & (tokens < self.end)
        return is_own, (tokens - self.begin).clamp(0, self.end - self.begin - 1)


def split_of(head: nn.Module) -> SplitVocabulary | None:
    """The part of the vocabulary that a head or an embedding has here; None if it has all of it."""
    return getattr(head, "split_vocabulary", None)


def look_up_parts(embedding: Any, split: SplitVocabulary) -> None:
    """Makes an embedding with some tokens' rows give the embeddings of all tokens: the others come from the others."""
    padding = embedding.padding_idx
    own_padding = padding - split.begin if padding is not None and split.begin <= padding < split.end else None

    def look_up(tokens: Tensor) -> Tensor:
        is_own, numbers = split.found(tokens)
        rows = functional.embedding(numbers, embedding.weight, own_padding)
        return left(rows * is_own[..., None], split.axis)

    embedding.forward = look_up
    embedding.split_vocabulary = split


@dataclass(frozen=True)
class SplitCrossEntropy:
    """−log p of (N,) labels, from each worker's logits of its own tokens; a `Criterion`, the same on all workers."""

    labels: Tensor
    split: SplitVocabulary

    def value(self, logits: Tensor, part: slice) -> Tensor:
        """() of fp32 logits (C, P); not differentiable."""
        return self._parts(logits, part)[0]

    def with_gradient(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """The value and (C, P) its gradient."""
        loss, p, is_own, numbers = self._parts(logits, part)
        return loss, p.scatter_add_(1, numbers[:, None], -is_own[:, None].to(p.dtype))

    def _parts(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """() the loss, (C, P) the probabilities, and (C,) which labels are this worker's and where."""
        is_own, numbers = self.split.found(self.labels[part])
        highest = self.split.axis.largest(logits.amax(dim=-1))
        shifted = logits - highest[:, None]
        picked = torch.where(is_own, shifted.gather(1, numbers[:, None])[:, 0], 0.0)
        exponentials = shifted.exp_()
        total, picked = self.split.axis.summed(torch.stack([exponentials.sum(dim=-1), picked]))
        return (total.log() - picked).sum(), exponentials.div_(total[:, None]), is_own, numbers
