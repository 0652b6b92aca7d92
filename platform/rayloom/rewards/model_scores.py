"""A reward by a reward model of the store, on this process' device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean
from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.models.responders.answer_scorer import AnswerScorer
from rayloom.models.responders.responder import respond_to_each
from rayloom.models.responders.subject import Subject
from rayloom.rewards.answer import Verdict, WrittenAnswer
from rayloom.specs.training.rewards import ModelReward


@dataclass(frozen=True)
class ModelScores:
    """Judges answers by a reward model."""

    scorer: AnswerScorer
    spec: ModelReward

    @classmethod
    def of(cls, spec: ModelReward, artifact: Artifact) -> ModelScores:
        """Raises InputError if the artifact is no reward model."""
        return cls(AnswerScorer.of(Subject.of("model", artifact, artifact.store)), spec)

    def judge(self, answers: Sequence[WrittenAnswer]) -> list[Verdict]:
        rows = [{"messages": [*answer.prompt, {"role": "assistant", "content": answer.text}]} for answer in answers]
        found = respond_to_each(self.scorer, rows, self.spec.micro_batch_sequences)
        return [Verdict(problem=one["failed"]) if "failed" in one else Verdict(self._value(one)) for one in found]

    def _value(self, found: Mapping[str, Any]) -> float:
        if "steps" not in found:
            return float(found["score"])
        of_steps: dict[str, Callable[[list[float]], float]] = {"min": min, "mean": fmean, "last": itemgetter(-1)}
        return float(of_steps[self.spec.over_steps](found["steps"]))
