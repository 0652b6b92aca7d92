"""`rewards` of a training job: functions that give an answer a number, added up by their weights.

A reward gives 1 to a right answer and 0 to a wrong one, unless it says otherwise. Where it cannot judge an answer it
gives no number at all, but the name of the problem.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from rayloom.specs.base import Name, OutsideFiles, Rule, Spec, TunedRef, refuse_repeated

Seconds = Annotated[float, Field(gt=0)]
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
    texts: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(
        default=(), json_schema_extra={"givenUnless": "field"}
    )
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


class MathReward(_ComparedReward):
    """1 if the answer's last formula or number equals the field's, by Math-Verify: 1/2 is 0.5 and `\\frac{2}{4}`."""

    type: Literal["math"]
    seconds: Seconds = 10.0
    """Longest time for one answer."""


class JsonSchemaReward(_Reward):
    """1 if the answer is JSON, alone or in its last fenced block, that is valid by the schema."""

    type: Literal["json_schema"]
    valid_by: dict[str, Any] | None = Field(default=None, alias="schema", json_schema_extra={"givenUnless": "field"})
    """The schema (draft 2020-12 unless `$schema` names another one)."""
    field: Column | None = None
    """Or a field of the row that holds it, as an object or as JSON."""

    @model_validator(mode="after")
    def _one_schema(self) -> Self:
        if (self.valid_by is None) == (self.field is None):
            raise ValueError("give either schema or field")
        return self


class LengthReward(_Reward):
    """1 for a length within the bounds; outside of them less by the distance, down to 0."""

    type: Literal["length"]
    unit: Literal["words", "characters"] = "words"
    """What is counted."""
    at_least: Annotated[int, Field(ge=0)] = 0
    """Shortest answer that gets 1."""
    at_most: Annotated[int, Field(ge=1)] | None = Field(
        default=None, examples=[200], json_schema_extra={"givenUnless": "at_least"}
    )
    """Longest answer that gets 1. Default: any."""
    slack: Annotated[int, Field(ge=0)] = 0
    """Distance from a bound at which the number has fallen to 0. At 0 it does so at once."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if not self.at_least and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        if self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least is more than at_most")
        return self


class FormatReward(_Reward):
    """1 if the answer is made of these sections, each once and in this order: `<think>…</think><answer>…</answer>`."""

    type: Literal["format"]
    tags: Annotated[tuple[Annotated[str, StringConstraints(pattern=r"^\w+$")], ...], Field(min_length=1)]
    """Names of the sections."""


class LanguageReward(_Reward):
    """1 if the answer is in the language, by fastText's lid.176 (Joulin et al. 2017)."""

    type: Literal["language"]
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]
    """ISO 639 code, such as en, de or zh."""


class CalledFunction(Spec):
    """A Python function beside the job file, and the limits of the process that calls it."""

    function: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$"), Rule("must be MODULE:FUNCTION")]
    """`module:function` of the file `module.py` beside the job file, which is shipped with the job."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the function, by name."""
    seconds: Seconds = 10.0
    """Longest time for one answer."""
    memory_mb: Annotated[int, Field(ge=64)] = 4096
    """Most address space of the process."""

    def files(self, field: str) -> OutsideFiles:
        """The file that is shipped; `field`: dotted path of this object."""
        return OutsideFiles(f"{field}.function", f"./{self.function.partition(':')[0]}.py")


class FunctionReward(CalledFunction, _Reward):
    """A Python function of your own: `(prompt, text, row, **arguments) -> number`, called for one answer at a time.

    It runs in a process of its own without the job's environment variables, which is started anew if it hangs or ends.
    An exception and a result that is no number are problems of that answer.
    """

    type: Literal["function"]


class CodeReward(_Reward):
    """The share of tests that the answer's Python code passes, each in a process of its own.

    The code is the last fenced block, else the whole answer. It has the standard library, but no network, no file of
    this machine and no environment. Code that fails, hangs or takes too much memory has not passed.
    """

    type: Literal["code"]
    field: Column
    """The row's field with a test or a list of tests: Python statements that are run after the code, such as
    `assert add(2, 3) == 5`, or `{input: …, output: …}` for what a program reads and prints."""
    seconds: Seconds = 5.0
    """Longest time for one test."""
    memory_mb: Annotated[int, Field(ge=64)] = 512
    """Most address space of the process."""


class JudgeReward(_Reward):
    """A number that a model behind an OpenAI-compatible endpoint gives, scaled to 0 … 1."""

    type: Literal["judge"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://"), Rule("must be a URL such as http://host:8000/v1")]
    """The endpoint, with its `/v1`."""
    model: str
    """The judge's name there."""
    rubric: str
    """File beside the job file with what the judge is asked. `{{prompt}}`, `{{answer}}` and `{{FIELD}}` of the row are
    filled in. It should ask for a number at the end of the reply: the last one counts."""
    lowest: float = 1.0
    """The number that becomes 0."""
    highest: float = 10.0
    """The number that becomes 1."""
    api_key_variable: str | None = None
    """Environment variable that holds the endpoint's key. Default: no key is sent."""
    max_reply_tokens: Annotated[int, Field(ge=1)] = 512
    """Longest reply."""
    seconds: Seconds = 60.0
    """Longest time for one reply."""
    at_once: Annotated[int, Field(ge=1)] = 16
    """Most requests that are on their way at the same time."""

    @model_validator(mode="after")
    def _scale_rises(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError("lowest must be less than highest")
        return self


class ModelReward(_Reward):
    """The number of a reward model of the store (`task: {type: reward}`), with its own tokenizer and chat template."""

    type: Literal["model"]
    model: TunedRef
    """The reward model."""
    micro_batch_sequences: Annotated[int, Field(ge=1)] = 8
    """Answers computed at once."""
    over_steps: Literal["min", "mean", "last"] = "min"
    """What an answer is worth by a process reward (`step_separator`): its worst step, its mean step, or its last."""


Reward = Annotated[
    ExactReward
    | NumericReward
    | MathReward
    | JsonSchemaReward
    | RegexReward
    | ContainsReward
    | LengthReward
    | FormatReward
    | LanguageReward
    | FunctionReward
    | CodeReward
    | JudgeReward
    | ModelReward,
    Field(discriminator="type"),
]


def title_of(reward: Reward) -> str:
    """The reward's name in logs and charts."""
    return reward.name or reward.type


def _check_names(rewards: tuple[Reward, ...]) -> tuple[Reward, ...]:
    refuse_repeated(map(title_of, rewards), "rewards")
    if rewards and not any(reward.weight for reward in rewards):
        raise ValueError("every weight is 0: all answers would be worth the same")
    return rewards


Rewards = Annotated[tuple[Reward, ...], Field(min_length=1), AfterValidator(_check_names)]
"""The field `rewards` of a job."""


def files_of_rewards(field: str, rewards: Sequence[Reward]) -> Iterator[OutsideFiles]:
    """The files beside the job file that these rewards read; `field`: dotted path of the list."""
    for number, reward in enumerate(rewards):
        if isinstance(reward, FunctionReward):
            yield reward.files(f"{field}.{number}")
        elif isinstance(reward, JudgeReward):
            yield OutsideFiles(f"{field}.{number}.rubric", reward.rubric)
