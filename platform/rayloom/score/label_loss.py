"""The cross-entropy of a model's labels, with logits computed at labelled positions only.

The model runs up to its output head. Head and cross-entropy are then computed for the hidden states of labelled
positions in chunks, so that no (positions × vocabulary) tensor is ever stored.

Shapes: B rows, N labelled positions, D hidden size, V vocabulary, C positions in a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rayloom.score.batches import Batch
from rayloom.score.model_inputs import model_inputs
from rayloom.score.parallel.axis import entering
from rayloom.score.parallel.vocabulary import SplitCrossEntropy, split_of

CHUNK_LOGITS = {"cpu": 1 << 25, "cuda": 1 << 27}
"""Most logits in a chunk (C × V), by device. Each chunk reads the head's weight and gradient: small ones are slow."""
CHUNK_POSITIONS = {"cpu": 512}
"""Most positions in a chunk (C), by device: larger chunks do not fit into a CPU's cache."""


class Criterion(Protocol):
    """What is summed over positions. `part`: which of the N positions the logits are of."""

    def value(self, logits: Tensor, part: slice) -> Tensor:
        """() of fp32 logits (C, V); autograd differentiates it."""

    def with_gradient(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """The value and (C, V) its gradient."""


@dataclass(frozen=True)
class CrossEntropy:
    """−log p of (N,) labels."""

    labels: Tensor

    def value(self, logits: Tensor, part: slice) -> Tensor:
        return functional.cross_entropy(logits, self.labels[part], reduction="sum")

    def with_gradient(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        log_p, picked = logits.log_softmax(dim=-1), self.labels[part, None]
        loss = -log_p.gather(1, picked).sum()
        return loss, log_p.exp_().scatter_add_(1, picked, torch.full_like(picked, -1, dtype=log_p.dtype))


class LabelLoss(nn.Module):
    """Wraps a causal, masked or sequence-to-sequence model and maps a batch to the sum of −log p(label)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """() fp32, summed over the labels, not averaged: only the caller knows how many there are in all."""
        indices = batch.label_indices
        hidden, labels = self.hidden_states(batch, indices), batch.labels.take(indices)
        split = split_of(output_head(self.model))
        if split is None:
            return self.head_loss(hidden, CrossEntropy(labels))
        return self.head_loss(entering(hidden, split.axis), SplitCrossEntropy(labels, split))

    def by_row(self, batch: Batch) -> Tensor:
        """(B,) the sum for each row."""
        indices = batch.label_indices
        num_rows, num_positions = batch.labels.shape
        counts = torch.bincount(indices // num_positions, minlength=num_rows).tolist()
        hidden = self.hidden_states(batch, indices)
        rows = zip(torch.split(hidden, counts), torch.split(indices, counts), strict=True)
        return torch.stack([self.head_loss(states, CrossEntropy(batch.labels.take(own))) for states, own in rows])

    def hidden_states(self, batch: Batch, label_indices: Tensor) -> Tensor:
        """(N, D) the inputs of the output head at labelled positions."""
        inputs = model_inputs(self.model, batch, has_virtual_tokens(self.model))
        return self.hidden_of(inputs, batch.labels.shape[1], label_indices)

    def hidden_of(self, inputs: dict[str, Any], num_positions: int, indices: Tensor) -> Tensor:
        """(N, D) the inputs of the output head at these positions of the flattened batch."""
        return self.run(inputs, num_positions, indices)[0]

    def run(self, inputs: dict[str, Any], num_positions: int, indices: Tensor) -> tuple[Tensor, Any]:
        """As `hidden_of`, and what the model gives back, whose logits are empty."""
        taken: list[Tensor] = []

        def take(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            # Virtual tokens of prompt methods come before the row's tokens.
            hidden = inputs[0][:, inputs[0].shape[1] - num_positions :]
            taken.append(hidden.flatten(0, 1).index_select(0, indices))
            return (taken[0][:0], *inputs[1:])

        hook = output_head(self.model).register_forward_pre_hook(take)
        try:
            output = self.model(**inputs)
        finally:
            hook.remove()
        return taken[0], output

    def logits(self, hidden: Tensor) -> Tensor:
        """(C, V) fp32 logits of hidden states."""
        return LogitScale.of(self.model)(output_head(self.model)(hidden)).float()

    def head_loss(self, hidden: Tensor, criterion: Criterion) -> Tensor:
        """() the criterion summed over (N, D) hidden states."""
        head = output_head(self.model)
        scale = LogitScale.of(self.model)
        config: Any = self.model.config
        chunk = chunk_positions(config.vocab_size, hidden.device.type)
        if type(head) is nn.Linear and scale.is_identity:
            return _linear_head_loss(hidden, head.weight, head.bias, criterion, chunk)
        total = hidden.sum(dtype=torch.float32) * 0.0  # a graph for the backward pass even without labels
        for part in _chunks(len(hidden), chunk):
            total = total + checkpoint(_chunk_loss, head, scale, hidden[part], criterion, part, use_reentrant=False)
        return total


def chunk_positions(vocabulary_size: int, device_type: str) -> int:
    """C: positions whose logits are computed at once."""
    most = CHUNK_LOGITS.get(device_type, 1 << 24) // vocabulary_size
    return max(1, min(most, CHUNK_POSITIONS.get(device_type, most)))


def output_head(model: nn.Module) -> nn.Module:
    """The module that turns hidden states into logits."""
    head = output_head_of(model)
    if head is None:
        raise TypeError(f"{type(model).__name__} has no output head over a vocabulary")
    return head


def output_head_of(model: nn.Module) -> nn.Module | None:
    """The output head, or None if the model has a task head."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return head if isinstance(head, nn.Module) else None


def has_virtual_tokens(model: nn.Module) -> bool:
    """Whether an adapter adds virtual tokens (embeddings, or keys and values) before each row."""
    config: Any = getattr(model, "active_peft_config", None)
    return bool(getattr(config, "is_prompt_learning", False))


class LogitScale:
    """Transformation of logits after the head, in some architectures: a factor, then a soft cap."""

    def __init__(self, factor: float, cap: float | None) -> None:
        self.factor, self.cap = factor, cap

    @classmethod
    def of(cls, model: nn.Module) -> LogitScale:
        config: Any = model.config
        # Cohere multiplies by logit_scale, Granite divides by logits_scaling, Gemma 2 caps.
        factor = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", 1.0))
        return cls(factor, getattr(config, "final_logit_softcapping", None))

    @property
    def is_identity(self) -> bool:
        return self.factor == 1.0 and self.cap is None

    def __call__(self, logits: Tensor) -> Tensor:
        logits = logits * self.factor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def _chunk_loss(head: nn.Module, scale: LogitScale, hidden: Tensor, criterion: Criterion, part: slice) -> Tensor:
    return criterion.value(scale(head(hidden)).float(), part)


def _chunks(num_positions: int, chunk: int) -> Iterator[slice]:
    return (slice(begin, min(begin + chunk, num_positions)) for begin in range(0, num_positions, chunk))


def _linear_head_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, criterion: Criterion, chunk: int) -> Tensor:
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden, weight, bias)):
        return _LinearHeadLoss.apply(hidden, weight, bias, criterion, chunk)  # type: ignore[no-any-return, no-untyped-call]
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for part in _chunks(len(hidden), chunk):
        total += criterion.value(functional.linear(hidden[part], weight, bias).float(), part)
    return total


class _LinearHeadLoss(torch.autograd.Function):
    """Linear head and a criterion summed over positions, with gradients computed in the forward pass, chunk by chunk.

    The backward pass only multiplies them by the incoming scalar gradient, so no logits are stored.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, criterion: Criterion, chunk: int
    ) -> Tensor:
        needs_weight, needs_bias = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        bias_grad = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needs_bias else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for part in _chunks(len(hidden), chunk):
            loss, logits_grad = criterion.with_gradient(functional.linear(hidden[part], weight, bias).float(), part)
            total += loss
            if bias_grad is not None:
                bias_grad += logits_grad.sum(dim=0)
            logits_grad = logits_grad.to(weight.dtype)
            torch.mm(logits_grad, weight, out=hidden_grad[part])
            if weight_grad is not None and logits_grad.dtype == weight_grad.dtype:
                weight_grad.addmm_(logits_grad.T, hidden[part])
            elif weight_grad is not None:
                weight_grad += logits_grad.T @ hidden[part]
            del logits_grad  # frees it before the next chunk's is allocated
        ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad, bias_grad = ctx.saved_tensors
        factor = grads[0]
        return (
            hidden_grad.mul_(factor).to(ctx.dtype),
            None if weight_grad is None else weight_grad.mul_(factor).to(ctx.dtype),
            None if bias_grad is None else bias_grad.mul_(factor).to(ctx.dtype),
            None,
            None,
        )
