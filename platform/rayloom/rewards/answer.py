"""What a reward judges and what it says: an answer, a verdict, and the one method between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class WrittenAnswer:
    """One answer of a model, with what it answered to."""

    prompt: Sequence[Mapping[str, Any]]
    """Messages before the answer: `role` and `content`."""
    text: str
    row: Mapping[str, Any]
    """The fields of the row of data that the prompt comes from."""
    is_cut: bool = False
    """Whether it ended only because it was as long as allowed."""


@dataclass(frozen=True)
class Verdict:
    """A number, or the problem because of which there is none."""

    value: float | None = None
    problem: str | None = None
    """A short name, such as `took_too_long`, and after a colon what exactly happened."""

    def __post_init__(self) -> None:
        assert (self.value is None) != (self.problem is None)

    @property
    def problem_name(self) -> str:
        return (self.problem or "").partition(":")[0]


class RewardFunction(Protocol):
    """Judges answers."""

    def judge(self, answers: Sequence[WrittenAnswer]) -> list[Verdict]:
        """A verdict for each answer, in their order. An answer that cannot be judged never stops the others."""


class CannotJudgeError(Exception):
    """Why one answer gets no number: the problem's name, and what exactly happened."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(f"{name}: {said}")


@dataclass(frozen=True)
class OneByOne:
    """A reward that looks at each answer alone, by a function that may raise CannotJudgeError."""

    value_of: Callable[[WrittenAnswer], float]

    def judge(self, answers: Sequence[WrittenAnswer]) -> list[Verdict]:
        return [self._verdict(answer) for answer in answers]

    def _verdict(self, answer: WrittenAnswer) -> Verdict:
        try:
            return Verdict(float(self.value_of(answer)))
        except CannotJudgeError as error:
            return Verdict(problem=str(error))
