"""Scores answers with a reward model: one number for an answer, or for each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.errors import InputError
from rayloom.models.context_length import context_tokens_of
from rayloom.models.responders.subject import Subject
from rayloom.score.reward_loss import ScoredText, step_probabilities
from rayloom.score.task_batches import TaskRow
from rayloom.score.task_loss import logits_of_rows
from rayloom.specs.training.tasks import RewardScoring, step_separator_of
from rayloom.text.conversations.judged_rows import JudgedRow
from rayloom.text.conversations.messages import ConversationError, check_turns
from rayloom.text.conversations.preference_rows import answer_sample
from rayloom.text.conversations.step_rows import StepTokens, step_tokens, steps_of
from rayloom.text.labelled.examples import ExampleError
from rayloom.text.tokenizer_files import tokenizer_digest


@dataclass(frozen=True)
class AnswerScorer:
    """Gives the last answer of each conversation the number of a reward model. Weights are loaded on first use."""

    subject: Subject
    sequence_length_tokens: int

    @classmethod
    def of(cls, subject: Subject) -> AnswerScorer:
        """The scorer of a subject. Raises InputError if it is no reward model, or has no chat template."""
        if subject.task is None or not isinstance(subject.task[0], RewardScoring):
            what = f"{subject.artifact_id} is no reward model"
            raise InputError(what, fix="Name the result of a `train` job with task reward.")
        subject.renderer  # noqa: B018 (raises InputError without a template)
        return cls(subject, subject.task[1])

    @property
    def tokenizer_digest(self) -> str:
        return tokenizer_digest(self.subject.renderer.tokenizer)

    def check(self, row: Mapping[str, Any]) -> None:
        messages = row.get("messages")
        if not messages or messages[-1].get("role") != "assistant":
            raise ExampleError("missing_column", "has no messages that end with an answer of the assistant")
        most, num_tokens = context_tokens_of(self.subject.base), len(self.tokens(messages))
        if most is not None and num_tokens > most:
            raise ExampleError("too_long", f"the conversation has {num_tokens} tokens, and the model takes {most}")

    def respond(self, rows: Sequence[Mapping[str, Any]], micro_batch_sequences: int) -> list[dict[str, Any]]:
        if self.step_separator is not None:
            read = [self._steps(row["messages"]) for row in rows]
            pairs = [(ScoredText.of(tokens), ends) for tokens, ends in read]
            found = self.step_probabilities(pairs, micro_batch_sequences)
            # An answer is as good as its worst step.
            return [{"score": min(steps), "steps": steps} for steps in found]
        tokens = [self.tokens(row["messages"]) for row in rows]
        return [{"score": reward} for reward in self.rewards(tokens, micro_batch_sequences)]

    def tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The conversation as in training. Raises ExampleError if it cannot be rendered."""
        if self.step_separator is not None:
            return self._steps(messages).tokens
        row = JudgedRow("", tuple(messages[:-1]), tuple(messages[-1:]), None)
        try:
            return answer_sample(self.subject.renderer, row, row.better).tokens
        except ConversationError as error:
            raise ExampleError("not_text", str(error)) from error

    @property
    def step_separator(self) -> str | None:
        """What ends the steps that the model judges; None if it judges whole answers."""
        return None if self.subject.task is None else step_separator_of(self.subject.task[0])

    def _steps(self, messages: Sequence[Mapping[str, Any]]) -> StepTokens:
        separator = self.step_separator or ""
        steps = steps_of(str(messages[-1].get("content") or ""), separator)
        if not steps:
            raise ExampleError("empty_text", "the answer has no step")
        try:
            check_turns(messages)
            return step_tokens(self.subject.renderer, messages[:-1], steps, separator)
        except ConversationError as error:
            raise ExampleError("not_text", str(error)) from error

    def step_probabilities(
        self,
        rows: Sequence[tuple[TaskRow, Sequence[int]]],
        micro_batch_sequences: int,
        advance: Callable[[int], None] = lambda _: None,
    ) -> list[list[float]]:
        """The probability that each step is right, for rows with the places where their steps end."""
        model: Any = self.subject.task_model
        return step_probabilities(model, rows, micro_batch_sequences, int(model.config.pad_token_id), advance)

    def rewards(
        self,
        answers: Sequence[Sequence[int] | NDArray[np.int64]],
        micro_batch_sequences: int,
        advance: Callable[[int], None] = lambda _: None,
    ) -> list[float]:
        """The number of each conversation, of which `answers` has the token ids."""
        model: Any = self.subject.task_model
        rows, padding = [ScoredText.of(tokens) for tokens in answers], int(model.config.pad_token_id)
        return [
            float(logits[0]) for logits in logits_of_rows(model, rows, "label", micro_batch_sequences, padding, advance)
        ]
