"""The first worker's part of a round: it asks engines, has rewards judge, and replaces prompts that teach nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rayloom.rewards.answer import WrittenAnswer
from rayloom.rewards.opening import OpenReward, weighted
from rayloom.specs.train import TrainSpec
from rayloom.text.conversations.prompt_rows import PromptRow
from rayloom.train.objectives.grpo import teaches
from rayloom.train.rollouts.answers import (
    AskedPrompt,
    PendingAnswers,
    PolicyAnswer,
    Round,
    Writers,
    WrittenTokens,
    rewards_of,
    seed_of,
)


@dataclass(frozen=True)
class StepPrompt:
    """A prompt that is asked for a step."""

    step: int
    place: tuple[int, int]
    """Source and row of the prompt."""
    row: PromptRow


Replacement = Callable[[StepPrompt, int, int], StepPrompt]
"""(question, its number in the round, attempt): another prompt in its place."""


@dataclass(frozen=True)
class Asker:
    """What the first worker has besides the model: engines, and rewards that are ready to judge."""

    spec: TrainSpec
    tokenizer: Path
    writers: Writers
    rewards: Sequence[OpenReward]

    def begin(self, questions: Sequence[StepPrompt], number: int, attempt: int = 0) -> PendingAnswers:
        """Asks for each question's group of answers. `number`: the round's."""
        assert self.spec.policy is not None
        return self.writers.ask(
            [
                AskedPrompt(question.row.tokens, seed_of(self.spec.seed + attempt, number, place, sample), place)
                for place, question in enumerate(questions)
                for sample in range(self.spec.policy.group_size)
            ]
        )

    def finish(
        self,
        questions: list[StepPrompt],
        pending: PendingAnswers,
        number: int,
        facts: dict[str, float],
        other: Replacement,
    ) -> Round:
        """The round, once all is answered and judged."""
        policy = self.spec.policy
        assert policy is not None
        size, facts = (
            policy.group_size,
            {"writing_seconds": 0.0, "judging_seconds": 0.0, "replaced_prompts": 0, **facts},
        )
        answers = self._answers(questions, pending, facts)
        for attempt in range(1, policy.resampled_rounds + 1):
            dull = np.flatnonzero(~teaches(rewards_of(answers, size))).tolist()
            if not dull:
                break
            others = [other(questions[place], place, attempt) for place in dull]
            more = self._answers(others, self.begin(others, number, attempt), facts)
            facts["replaced_prompts"] += len(dull)
            for turn, place in enumerate(dull):
                answers[place * size : (place + 1) * size] = more[turn * size : (turn + 1) * size]
        return Round(int(facts.pop("version")), answers, facts)

    def likeliest(self, rows: Sequence[PromptRow]) -> list[PolicyAnswer]:
        """The model's likeliest answer to each prompt, judged."""
        pending = self.writers.ask([AskedPrompt(row.tokens, None, place) for place, row in enumerate(rows)])
        questions = [StepPrompt(0, (0, place), row) for place, row in enumerate(rows)]
        written, _ = pending.result()
        return self._judged(questions, written, 1)

    def _answers(
        self, questions: Sequence[StepPrompt], pending: PendingAnswers, facts: dict[str, float]
    ) -> list[PolicyAnswer]:
        written, seconds = pending.result()
        facts["writing_seconds"] += seconds
        started = time.perf_counter()
        assert self.spec.policy is not None
        judged = self._judged(questions, written, self.spec.policy.group_size)
        facts["judging_seconds"] += time.perf_counter() - started
        return judged

    def _judged(
        self, questions: Sequence[StepPrompt], written: Sequence[WrittenTokens], size: int
    ) -> list[PolicyAnswer]:
        asked = [(question, sample) for question in questions for sample in range(size)]
        texts = [self._decoder.decode(one.tokens, skip_special_tokens=True) for one in written]
        judgements = weighted(
            self.rewards,
            [
                WrittenAnswer(question.row.messages, text, question.row.row, one.is_cut)
                for (question, _), one, text in zip(asked, written, texts, strict=True)
            ],
        )
        answers = []
        for (question, sample), one, text, judgement in zip(asked, written, texts, judgements, strict=True):
            answers.append(
                PolicyAnswer(
                    question.step, question.place, sample, question.row.tokens, one.tokens, one.log_p, one.is_cut, text
                )
            )
            answers[-1].reward = self._reward(judgement.value, one)
            answers[-1].parts = {name: verdict.value for name, verdict in judgement.parts.items()}
            answers[-1].problems = judgement.problems
        return answers

    def _reward(self, value: float | None, written: WrittenTokens) -> float | None:
        """What an answer is worth after what the policy says of cut and of long ones."""
        policy, rollouts = self.spec.policy, self.spec.rollouts
        assert policy is not None and rollouts is not None
        if value is None:
            return None
        if written.is_cut and policy.cut_answers == "no_reward":
            value = 0.0
        begin, end = policy.long_answers_from_tokens, rollouts.max_answer_tokens
        if begin is None or len(written.tokens) <= begin:
            return value
        return value - (len(written.tokens) - begin) / max(1, end - begin)  # Yu et al. 2025, equation 13

    @cached_property
    def _decoder(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.tokenizer)
