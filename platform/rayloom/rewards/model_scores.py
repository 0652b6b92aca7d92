"""A reward by a reward model of the store, on this process' device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayloom.artifacts.store import Artifact
from rayloom.models.responders.responder import AnswerScorer, respond_to_each
from rayloom.models.responders.subject import Subject
from rayloom.rewards.answer import Verdict, WrittenAnswer
from rayloom.specs.training.rewards import ModelReward


@dataclass(frozen=True)
class ModelScores:
    """Judges answers by a reward model."""

    scorer: AnswerScorer
    micro_batch_sequences: int

    @classmethod
    def of(cls, spec: ModelReward, artifact: Artifact) -> ModelScores:
        """Raises InputError if the artifact is no reward model."""
        return cls(AnswerScorer.of(Subject.of("model", artifact, artifact.store)), spec.micro_batch_sequences)

    def judge(self, answers: Sequence[WrittenAnswer]) -> list[Verdict]:
        rows = [{"messages": [*answer.prompt, {"role": "assistant", "content": answer.text}]} for answer in answers]
        found = respond_to_each(self.scorer, rows, self.micro_batch_sequences)
        return [Verdict(problem=one["failed"]) if "failed" in one else Verdict(one["score"]) for one in found]
