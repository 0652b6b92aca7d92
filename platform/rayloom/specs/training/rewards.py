"""`rewards` of a training job: functions that give an answer a number, added up by their weights.

A reward gives 1 to a right answer and 0 to a wrong one, unless it says otherwise. Where it cannot judge an answer it
gives no number at all, but the name of the problem.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from rayloom.specs.base import Name, Spec, refuse_repeated

Column = Annotated[str, StringConstraints(min_length=1)]
Expression = Annotated[str, AfterValidator(lambda text: _check_expression(text))]


def _check_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


class _Reward(Spec):
    """The fields of every reward."""

    name: Name | None = None
    """The reward's name in logs and charts. Default: its type."""
    weight: float = 1.0
    """Factor of its number in the sum; below 0 it is a penalty."""


class _ComparedReward(_Reward):
    """The fields of every reward that compares the answer with a field of its row."""

    field: Column
    """The row's field with what is right."""
    after: Annotated[str, StringConstraints(min_length=1)] | None = None
    """Only what follows the last of these marks is compared, such as `####`; an answer without one gets 0. Default: the
    whole answer."""


class ExactReward(_ComparedReward):
    """1 if the answer is the field's text, without the spaces around them."""

    type: Literal["exact"]
    ignore_case: bool = False
    """Take small and capital letters as the same."""


class NumericReward(_ComparedReward):
    """1 if the last number of the answer is the field's number. Written as 1,234.5, -3, 2/3, 1e-3 or 50%."""

    type: Literal["numeric"]
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """Largest distance that counts as equal, as a share of the field's number."""


class RegexReward(_Reward):
    """1 if the regular expression is found in the answer."""

    type: Literal["regex"]
    pattern: Expression
    """In Python's syntax. `.` matches no line break; write (?s) before the pattern to change that."""
    whole: bool = False
    """The pattern must match the whole answer, not a part of it."""


class ContainsReward(_Reward):
    """The share of the texts that the answer contains."""

    type: Literal["contains"]
    texts: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    """What is looked for."""
    field: Column | None = None
    """Or a field of the row that holds a text or a list of texts."""
    at: Literal["anywhere", "start", "end"] = "anywhere"
    """Where they must stand. Spaces around the answer do not count."""
    ignore_case: bool = False
    """Take small and capital letters as the same."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.texts) == (self.field is not None):
            raise ValueError("give either texts or field")
        return self


Reward = Annotated[ExactReward | NumericReward | RegexReward | ContainsReward, Field(discriminator="type")]


def title_of(reward: Reward) -> str:
    """The reward's name in logs and charts."""
    return reward.name or reward.type


def _check_names(rewards: tuple[Reward, ...]) -> tuple[Reward, ...]:
    refuse_repeated(map(title_of, rewards), "rewards")
    return rewards


Rewards = Annotated[tuple[Reward, ...], Field(min_length=1), AfterValidator(_check_names)]
"""The field `rewards` of a job."""
