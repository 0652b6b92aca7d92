"""The loss of a policy on answers that it wrote: clipped surrogate, KL to a reference, and a critic's squared error.

Rows may hold several answers to one prompt, which share its tokens: each answer sees the prompt and itself only.

Shapes: B rows, S positions, N answer tokens of the batch, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rayloom.score.batches import moved
from rayloom.score.document_attention import DECODERS
from rayloom.score.label_loss import LabelLoss, LogitScale, chunk_positions, output_head
from rayloom.score.model_inputs import as_attention_takes_it
from rayloom.specs.training.policies import KlPenalty, PolicyMethod, Ppo

VALUE_HEAD = "value_head"
"""Name of the critic's output layer in the model; it is part of checkpoints and of no result."""


def without_critic(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the policy alone."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(f"{VALUE_HEAD}.")}


@dataclass(frozen=True)
class PolicyBatch:
    """Prompts with their answers. What is not known of the tokens is NaN."""

    tokens: Tensor
    """(B, S) ids: a prompt, then its answers; padding at the end."""
    positions: Tensor
    """(B, S) position in the text that the model read or wrote: every answer's go on behind its prompt's."""
    branches: Tensor
    """(B, S) 0 in the prompt, the answer's number from 1 on in an answer, −1 in padding."""
    indices: Tensor
    """(N,) where in the flattened batch each answer token is predicted from."""
    labels: Tensor
    """(N,) the answer tokens."""
    weights: Tensor
    """(N,) of each token in the loss."""
    advantages: Tensor
    """(N,)"""
    engine_log_p: Tensor
    """(N,) log p by the engine that wrote the answer."""
    old_log_p: Tensor
    """(N,) by the trainer before the first update from these answers; NaN: the same as now."""
    reference_log_p: Tensor
    """(N,) by the reference."""
    old_values: Tensor
    """(N,) the critic's, before the first update."""
    returns: Tensor
    """(N,) what the critic should have said."""
    num_tokens: int
    num_labels: int

    @property
    def has_branches(self) -> bool:
        """Whether a row has several answers."""
        return bool((self.branches > 1).any())

    def to(self, device: torch.device) -> Self:
        return self if device.type == "cpu" else replace(self, **moved(self, device))

    def without_labels(self) -> Self:
        """The same computation, with zero loss and zero gradients."""
        return replace(self, weights=torch.zeros_like(self.weights), num_tokens=0, num_labels=0)


@dataclass(frozen=True)
class TokenView:
    """What a model says about each answer token."""

    log_p: Tensor
    """(N,) fp32, at the temperature of sampling."""
    entropy: Tensor
    """(N,) of the distribution that the token was sampled from, in nats; without gradient."""
    values: Tensor | None
    """(N,) the critic's estimate of the rewards to come, before the token is written."""


class PolicyLoss(LabelLoss):
    """Maps a batch to its summed loss, and keeps what it saw in `seen` until someone takes it."""

    def __init__(self, model: nn.Module, policy: Any, temperature: float) -> None:
        super().__init__(model)
        self.policy, self.temperature = policy, temperature
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, batch: PolicyBatch) -> Tensor:  # type: ignore[override]  # a row has several answers
        view = self.view(batch)
        losses = policy_losses(self.policy, view, batch)
        if batch.num_labels and self.model.training:
            self.seen.append(seen_of(self.policy, view, batch))
        return losses.sum()

    def view(self, batch: PolicyBatch) -> TokenView:
        """What the model says about the answers' tokens."""
        mask = None
        if batch.has_branches:
            config: Any = self.model.config
            is_eager = config._attn_implementation == "eager"
            dtype = self.model.get_input_embeddings().weight.dtype  # type: ignore[operator]
            mask = as_attention_takes_it(branch_mask(batch.branches), "eager" if is_eager else "sdpa", dtype)
        inputs = {"input_ids": batch.tokens, "position_ids": batch.positions, "attention_mask": mask}
        hidden = self.hidden_of({**inputs, "use_cache": False}, batch.tokens.shape[1], batch.indices)
        log_p, entropy = self._of_tokens(hidden, batch.labels)
        head = getattr(self.model, VALUE_HEAD, None)
        values = None if head is None else head(hidden).float().squeeze(-1)
        return TokenView(log_p, entropy, values)

    def _of_tokens(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) log p and (N,) entropy, in chunks, so that no (N, V) tensor is stored."""
        head, scale = output_head(self.model), LogitScale.of(self.model)
        config: Any = self.model.config
        chunk = chunk_positions(config.vocab_size, hidden.device.type)
        is_frozen = type(head) is nn.Linear and not head.weight.requires_grad and scale.is_identity
        if is_frozen and torch.is_grad_enabled() and hidden.requires_grad:
            return _FrozenHeadLogP.apply(hidden, head.weight, head.bias, labels, self.temperature, chunk)  # type: ignore[no-any-return, no-untyped-call]
        parts = [slice(begin, begin + chunk) for begin in range(0, len(labels), chunk)]
        found = [
            checkpoint(_chunk_log_p, head, scale, hidden[part], labels[part], self.temperature, use_reentrant=False)
            for part in parts
        ]
        return torch.cat([log_p for log_p, _ in found]), torch.cat([entropy for _, entropy in found])


def _chunk_log_p(
    head: nn.Module, scale: LogitScale, hidden: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    log_p = (scale(head(hidden)).float() / temperature).log_softmax(dim=-1)
    fixed = log_p.detach()
    return log_p.gather(1, labels[:, None]).squeeze(1), -(fixed.exp() * fixed).sum(dim=-1)


class _FrozenHeadLogP(torch.autograd.Function):
    """log p and entropy of a linear head that is not trained, with the hidden states' gradients made in the forward
    pass: ∇ log p(y) = (W_y − Σ_v p_v W_v) / temperature. So the head is multiplied twice, not three times."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(hidden)
        picked, entropies = [], []
        for begin in range(0, len(labels), chunk):
            part = slice(begin, begin + chunk)
            log_p = (functional.linear(hidden[part], weight, bias).float() / temperature).log_softmax(dim=-1)
            picked.append(log_p.gather(1, labels[part, None]).squeeze(1))
            p = log_p.exp()
            entropies.append(-(p * log_p).sum(dim=-1))
            gradient[part] = (weight[labels[part]] - p.to(weight.dtype) @ weight) / temperature
        ctx.save_for_backward(gradient)
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(picked), entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0][:, None].to(gradient.dtype), None, None, None, None, None)


def branch_mask(branches: Tensor) -> Tensor:
    """(B, 1, S, S) whether a position sees another: those before it of the prompt and of its own answer."""
    own = branches[:, None, :, None] == branches[:, None, None, :]
    return (own | (branches[:, None, None, :] == 0)).tril()


def shares_prompts(model: nn.Module) -> bool:
    """Whether rows of this model may hold several answers: its attention takes any mask, in every layer."""
    config: Any = model.config
    return config.model_type in DECODERS and getattr(config, "sliding_window", None) is None


def policy_losses(policy: PolicyMethod, view: TokenView, batch: PolicyBatch) -> Tensor:
    """(N,) weighted losses (Schulman et al. 2017, equations 7 and 9, for each token)."""
    now = view.log_p
    old = torch.where(batch.old_log_p.isnan(), now.detach(), batch.old_log_p)
    ratio = torch.exp(now - old)
    bounded = ratio.clamp(1 - policy.clip_below, 1 + policy.clip_above)
    losses = -torch.minimum(ratio * batch.advantages, bounded * batch.advantages)
    if policy.importance_limit is not None:
        losses = losses * torch.exp(old - batch.engine_log_p).clamp(max=policy.importance_limit)
    if policy.kl is not None and policy.kl.added_to == "loss":
        losses = losses + policy.kl.coefficient * kl_estimate(policy.kl.estimator, now, batch.reference_log_p)
    if isinstance(policy, Ppo) and view.values is not None:
        near = batch.old_values + (view.values - batch.old_values).clamp(-policy.value_clip, policy.value_clip)
        errors = torch.maximum((view.values - batch.returns) ** 2, (near - batch.returns) ** 2)
        losses = losses + policy.value_coefficient * 0.5 * errors
    return torch.where(batch.weights != 0, losses * batch.weights, 0.0)


def kl_estimate(estimator: Literal["k1", "k2", "k3"], log_p: Tensor, reference: Tensor) -> Tensor:
    """(N,) estimates of KL(π ‖ π_ref) from tokens sampled from π (Schulman 2020)."""
    x = reference - log_p
    if estimator == "k1":
        return -x
    return x**2 / 2 if estimator == "k2" else torch.expm1(x) - x


def seen_of(policy: PolicyMethod, view: TokenView, batch: PolicyBatch) -> dict[str, Tensor]:
    """(N,) what is shown of each token, by name."""
    with torch.no_grad():
        now = view.log_p.detach()
        ratio = torch.exp(now - torch.where(batch.old_log_p.isnan(), now, batch.old_log_p))
        is_cut_off = torch.where(batch.advantages > 0, ratio > 1 + policy.clip_above, ratio < 1 - policy.clip_below)
        seen = {
            # The engine wrote with the weights before the first update from these answers.
            "mismatch": (torch.where(batch.old_log_p.isnan(), now, batch.old_log_p) - batch.engine_log_p).abs(),
            "clipped": is_cut_off.float(),
            "entropy": view.entropy.detach(),
        }
        if isinstance(policy.kl, KlPenalty):
            seen["kl"] = kl_estimate("k3", now, batch.reference_log_p)
        return seen
