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
from rayloom.train.objectives.advantages import teaches
from rayloom.train.rollouts.answers import PolicyAnswer, Round, Writers, rewards_of
from rayloom.train.rollouts.turns import Dialogue, Environment, PendingDialogues


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
    """What the first worker has besides the model: engines, rewards that are ready to judge, and an environment."""

    spec: TrainSpec
    tokenizer: Path
    writers: Writers
    rewards: Sequence[OpenReward]
    environment: Environment | None = None

    def begin(self, questions: Sequence[StepPrompt], number: int, attempt: int = 0) -> PendingDialogues:
        """Asks for each question's group of answers. `number`: the round's."""
        assert self.spec.policy is not None
        return self._asked(
            [
                Dialogue(question.row, place, (self.spec.seed + attempt, number, place, sample))
                for place, question in enumerate(questions)
                for sample in range(self.spec.policy.group_size)
            ]
        )

    def _asked(self, dialogues: Sequence[Dialogue]) -> PendingDialogues:
        return PendingDialogues(dialogues, self.writers, self._decoded, self.environment)

    def finish(
        self,
        questions: list[StepPrompt],
        pending: PendingDialogues,
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
        pending = self._asked([Dialogue(row, place, None) for place, row in enumerate(rows)])
        questions = [StepPrompt(0, (0, place), row) for place, row in enumerate(rows)]
        return self._judged(questions, pending.result()[0], 1)

    def _answers(
        self, questions: Sequence[StepPrompt], pending: PendingDialogues, facts: dict[str, float]
    ) -> list[PolicyAnswer]:
        begun = time.perf_counter()
        dialogues, seconds = pending.result()
        started = time.perf_counter()
        facts["writing_seconds"] += seconds
        if self.environment is not None:
            facts["environment_seconds"] = facts.get("environment_seconds", 0.0) + max(0.0, started - begun - seconds)
        assert self.spec.policy is not None
        judged = self._judged(questions, dialogues, self.spec.policy.group_size)
        facts["judging_seconds"] += time.perf_counter() - started
        return judged

    def _judged(self, questions: Sequence[StepPrompt], said: Sequence[Dialogue], size: int) -> list[PolicyAnswer]:
        asked = [(question, sample) for question in questions for sample in range(size)]
        judgements = weighted(
            self.rewards, [WrittenAnswer(one.messages[:-1], one.text, one.row.row, one.is_cut) for one in said]
        )
        answers = []
        for (question, sample), one, judgement in zip(asked, said, judgements, strict=True):
            answer = PolicyAnswer(
                question.step, question.place, sample, question.row.tokens, one.tokens, one.log_p, one.is_cut,
                one.text, gaps=one.gaps, turns=one.turns, num_retokenised=one.num_retokenised,
            )  # fmt: skip
            # A conversation that broke off is not what the rewards were made for.
            answer.reward = None if one.problem else self._reward(judgement.value, one.is_cut, len(one.log_p))
            answer.parts = {name: verdict.value for name, verdict in judgement.parts.items()}
            answer.problems = [*([one.problem] if one.problem else []), *judgement.problems]
            answers.append(answer)
        return answers

    def _reward(self, value: float | None, is_cut: bool, length: int) -> float | None:
        """What an answer is worth after what the policy says of cut and of long ones."""
        policy, rollouts = self.spec.policy, self.spec.rollouts
        assert policy is not None and rollouts is not None
        if value is None:
            return None
        if is_cut and policy.cut_answers == "no_reward":
            value = 0.0
        begin, end = policy.long_answers_from_tokens, rollouts.most_written_tokens
        if begin is None or length <= begin:
            return value
        return value - (length - begin) / max(1, end - begin)  # Yu et al. 2025, equation 13

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._decoder.decode(tokens, skip_special_tokens=True))

    @cached_property
    def _decoder(self) -> Any:
        from rayloom.pretrained import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.tokenizer)
