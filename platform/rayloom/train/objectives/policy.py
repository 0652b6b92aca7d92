"""Learning from rewards as an objective: advantages by the policy's method, and answers as batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayloom.score.batches import stacked
from rayloom.score.policy_loss import VALUE_HEAD, PolicyBatch, PolicyLoss, kl_estimate, shares_prompts
from rayloom.specs.training.policies import Grpo, Policy, Ppo, ReinforcePlusPlus, Rollouts
from rayloom.text.conversations.prompt_rows import PromptRows
from rayloom.train.objectives.advantages import grpo, ppo, reinforce_pp, rloo
from rayloom.train.objectives.objective import Draw
from rayloom.train.rollouts.answers import PolicyAnswer, Values, rewards_of

Piece = Sequence[PolicyAnswer]
"""Answers to one prompt that share a row."""
PADDING = -1


@dataclass(frozen=True)
class PolicyObjective:
    """The objective of a policy."""

    policy: Policy
    rollouts: Rollouts

    def rows(self, folder: Path) -> PromptRows:
        return PromptRows(folder)

    def loss_of(self, model: nn.Module) -> PolicyLoss:
        if self.policy.needs_values and not hasattr(model, VALUE_HEAD):
            hidden = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
            critic = nn.Linear(hidden, 1)
            nn.init.zeros_(critic.weight)  # it first says 0 for everything, whatever the seed
            nn.init.zeros_(critic.bias)
            model.add_module(VALUE_HEAD, critic)
        return PolicyLoss(model, self.policy, self.rollouts.temperature)

    def pieces(self, answers: Sequence[PolicyAnswer], at_once: int, model: nn.Module) -> list[list[Piece]]:
        """The answers as micro-batches of at most `at_once` of them, rows of about one length together."""
        together = min(at_once, self.policy.group_size) if shares_prompts(model) else 1
        groups = [
            answers[begin : begin + self.policy.group_size] for begin in range(0, len(answers), self.policy.group_size)
        ]
        pieces = [group[begin : begin + together] for group in groups for begin in range(0, len(group), together)]
        lengths = [len(piece[0].prompt_tokens) + sum(len(answer.tokens) for answer in piece) for piece in pieces]
        order = np.argsort(lengths, kind="stable")
        rows = max(1, at_once // together)
        return [[pieces[number] for number in order[begin : begin + rows]] for begin in range(0, len(order), rows)]

    def batch(self, rows: Sequence[Piece], draws: Sequence[Draw] = ()) -> PolicyBatch:  # noqa: ARG002
        """One row for each piece. Nothing in it is random."""
        answers = [answer for piece in rows for answer in piece]
        width = max(len(piece[0].prompt_tokens) + sum(len(answer.tokens) for answer in piece) for piece in rows)
        tokens, positions, branches, indices = [], [], [], []
        for number, piece in enumerate(rows):
            prompt = piece[0].prompt_tokens
            ids, places, own = [prompt], [np.arange(len(prompt))], [np.zeros(len(prompt), np.int64)]
            begin = len(prompt)
            for branch, answer in enumerate(piece, 1):
                size = len(answer.tokens)
                # The first token is predicted by the prompt's last position, the others by the token before them.
                sources = np.array([len(prompt) - 1, *range(begin, begin + size - 1)])
                indices.append(number * width + sources[answer.written])
                ids.append(answer.tokens)
                places.append(np.arange(len(prompt), len(prompt) + size))
                own.append(np.full(size, branch))
                begin += size
            tokens.append(np.concatenate(ids).astype(np.int64))
            positions.append(np.concatenate(places))
            branches.append(np.concatenate(own))
        weights = [self.weights(answer) for answer in answers]
        return PolicyBatch(
            tokens=stacked(tokens, 0),
            positions=stacked(positions, 0),
            branches=stacked(branches, PADDING),
            indices=torch.from_numpy(np.concatenate(indices)),
            labels=torch.from_numpy(np.concatenate([np.asarray(a.tokens, np.int64)[a.written] for a in answers])),
            weights=_tensor(weights),
            advantages=_tensor([_known(answer.advantages, answer, 0.0) for answer in answers]),
            engine_log_p=_tensor([np.asarray(answer.log_p) for answer in answers]),
            old_log_p=_tensor([_known(answer.old_log_p, answer) for answer in answers]),
            reference_log_p=_tensor([_known(answer.reference_log_p, answer) for answer in answers]),
            old_values=_tensor([_known(answer.values, answer) for answer in answers]),
            returns=_tensor([_known(answer.returns, answer) for answer in answers]),
            num_tokens=sum(map(len, tokens)),
            num_labels=sum(self.counted(answer) for answer in answers),
        )

    def taught(self, answers: Sequence[PolicyAnswer]) -> list[PolicyAnswer]:
        """The groups of answers with a gradient, and the first one in any case: without KL and critic, nothing comes
        from prompts whose answers all have an advantage of 0."""
        if self.policy.kl is not None or self.policy.needs_values:
            return list(answers)
        size = self.policy.group_size
        groups = [answers[begin : begin + size] for begin in range(0, len(answers), size)]
        kept = [group for group in groups if any(np.any(answer.advantages) for answer in group)]
        return [answer for group in kept or groups[:1] for answer in group]

    def counted(self, answer: PolicyAnswer) -> int:
        """What an answer adds to the number by which the step's loss is divided."""
        if not self.is_trained(answer):
            return 0
        return answer.num_written if self.policy.loss_over == "tokens" else 1

    def weights(self, answer: PolicyAnswer) -> Values:
        """(T,) weights of an answer's tokens in the step's loss before it is divided."""
        if not self.is_trained(answer):
            return np.zeros(answer.num_written)
        each = {"tokens": 1.0, "answers": 1 / answer.num_written, "longest": 1 / self.rollouts.most_written_tokens}
        return np.full(answer.num_written, each[self.policy.loss_over])

    def is_trained(self, answer: PolicyAnswer) -> bool:
        return answer.reward is not None and not (answer.is_cut and self.policy.cut_answers == "masked")

    def set_advantages(self, answers: Sequence[PolicyAnswer]) -> None:
        """Sets the advantages of a round's answers, and for a critic its returns."""
        policy, rewards = self.policy, rewards_of(answers, self.policy.group_size)
        penalties = [self._penalty(answer) for answer in answers]
        if isinstance(policy, Ppo):
            values = [_known(answer.values, answer) for answer in answers]
            found, returns = ppo(policy, rewards.reshape(-1), penalties, values)
            for answer, target in zip(answers, returns, strict=True):
                answer.returns = np.nan_to_num(target)
        elif isinstance(policy, ReinforcePlusPlus):
            found = reinforce_pp(rewards, penalties)
        else:
            # The KL of an answer's tokens is taken off its one reward (Ahmadian et al. 2024, section 2).
            rewards = rewards - np.asarray([one.sum() for one in penalties]).reshape(rewards.shape)
            of_each = grpo(policy, rewards) if isinstance(policy, Grpo) else rloo(rewards)
            pairs = zip(of_each.reshape(-1), answers, strict=True)
            found = [np.full(answer.num_written, value) for value, answer in pairs]
        for answer, advantages in zip(answers, found, strict=True):
            answer.advantages = np.nan_to_num(advantages)

    def _penalty(self, answer: PolicyAnswer) -> Values:
        """(T,) what the KL takes off the rewards of an answer's tokens."""
        kl = self.policy.kl
        if kl is None or kl.added_to != "reward":
            return np.zeros(answer.num_written)
        log_p, reference = (torch.from_numpy(_known(of, answer)) for of in (answer.old_log_p, answer.reference_log_p))
        return kl.coefficient * kl_estimate(kl.estimator, log_p, reference).numpy()


def _known(values: Values | None, answer: PolicyAnswer, otherwise: float = np.nan) -> Values:
    return np.full(answer.num_written, otherwise) if values is None else values


def _tensor(parts: Sequence[NDArray[np.float64]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))
