"""Opens the rewards of a job as named, weighted functions, checks rows for the fields that they need, and adds up.

with opened(spec.rewards, "rewards", parents, job_directory) as rewards:
    for judgement in weighted(rewards, answers):
        judgement.value     # None if a reward could not judge this answer
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rayloom
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.rewards import formats, texts
from rayloom.rewards.answer import OneByOne, RewardFunction, Verdict, WrittenAnswer
from rayloom.rewards.code_tests import CodeTests
from rayloom.rewards.function_process import FunctionProcess
from rayloom.rewards.sandbox import Sandbox
from rayloom.specs.training.rewards import (
    CodeReward,
    ContainsReward,
    ExactReward,
    FormatReward,
    FunctionReward,
    JsonSchemaReward,
    JudgeReward,
    LanguageReward,
    LengthReward,
    MathReward,
    ModelReward,
    NumericReward,
    RegexReward,
    Reward,
    title_of,
)
from rayloom.text.row_problems import RowProblems


@dataclass(frozen=True)
class OpenReward:
    """A reward that is ready to judge."""

    name: str
    weight: float
    function: RewardFunction


@dataclass(frozen=True)
class Judgement:
    """What all rewards say about one answer."""

    parts: dict[str, Verdict]
    """Verdict of each reward, by its name."""
    value: float | None
    """Sum of weight × number; None if any reward has a problem, for a sum without one part would be another reward."""

    @property
    def problems(self) -> list[str]:
        return [f"{name}: {verdict.problem}" for name, verdict in self.parts.items() if verdict.problem is not None]


@contextmanager
def opened(
    rewards: Sequence[Reward], field: str, parents: Mapping[str, Artifact], job_directory: Path
) -> Iterator[list[OpenReward]]:
    """The rewards, with the processes that they need, which end with the block.

    field: dotted path of the list in the job's spec, by which `parents` names the models of the store.
    Raises InputError or ResourceError if one cannot judge at all: a judge that is down.
    """
    with ExitStack() as closing:
        yield [
            OpenReward(
                title_of(reward),
                reward.weight,
                _function(reward, parents.get(f"{field}.{number}.model"), job_directory, closing),
            )
            for number, reward in enumerate(rewards)
        ]


def check_opening(
    rewards: Sequence[Reward],
    field: str,
    parents: Mapping[str, Artifact],
    job_directory: Path,
    rows: Iterable[tuple[str, Mapping[str, Any]]] = (),
) -> None:
    """Raises what `opened` would raise: a function that does not import and a judge that is down are known early.

    rows: some rows by their origin, which must have the fields that a judge's rubric shows.
    """
    with opened(rewards, field, parents, job_directory) as found:
        shown = {name: reward.name for reward in found for name in getattr(reward.function, "fields", ())}
        check_rows(shown, rows)


def _function(reward: Reward, model: Artifact | None, job_directory: Path, closing: ExitStack) -> RewardFunction:
    if isinstance(reward, JsonSchemaReward):
        formats.check_schema(reward)
    if isinstance(reward, FunctionReward):
        return closing.enter_context(FunctionProcess.of(reward, job_directory))
    if isinstance(reward, MathReward):
        arguments = {"field": reward.field, "after": reward.after}
        package = Path(rayloom.__file__).parents[1]
        function = "rayloom.rewards.mathematics:equal"
        return closing.enter_context(FunctionProcess(function, package, arguments, reward.seconds, memory_mb=4096))
    if isinstance(reward, CodeReward):
        return CodeTests(reward, closing.enter_context(Sandbox(reward.seconds, reward.memory_mb)))
    if isinstance(reward, ModelReward) and model is not None:
        from rayloom.rewards.model_scores import ModelScores  # loads torch

        return ModelScores.of(reward, model)
    if isinstance(reward, JudgeReward):
        from rayloom.rewards.judge import Judge  # loads an HTTP client

        judge = Judge.of(reward, job_directory)
        closing.callback(judge.endpoint.close)
        return judge
    return OneByOne(partial(_ONE_BY_ONE[type(reward)], reward))


_ONE_BY_ONE: Mapping[type, Any] = {
    ExactReward: texts.exact,
    NumericReward: texts.numeric,
    RegexReward: texts.matches,
    ContainsReward: texts.contains,
    JsonSchemaReward: formats.fits_schema,
    LengthReward: formats.length,
    FormatReward: formats.has_sections,
    LanguageReward: formats.is_in_language,
}


def weighted(rewards: Sequence[OpenReward], answers: Sequence[WrittenAnswer]) -> list[Judgement]:
    """What the rewards say about each answer, in the order of the answers."""
    verdicts = {reward.name: reward.function.judge(answers) for reward in rewards}
    return [
        _judgement(rewards, {name: said[number] for name, said in verdicts.items()}) for number in range(len(answers))
    ]


def _judgement(rewards: Sequence[OpenReward], parts: dict[str, Verdict]) -> Judgement:
    numbers = [(reward.weight, parts[reward.name].value) for reward in rewards]
    known = [weight * value for weight, value in numbers if value is not None]
    return Judgement(parts, sum(known) if len(known) == len(numbers) else None)


def problem_counts(judgements: Iterable[Judgement]) -> dict[str, int]:
    """How many answers had which problem, as `REWARD: PROBLEM`, most frequent first."""
    names = Counter(
        f"{name}: {verdict.problem_name}"
        for judgement in judgements
        for name, verdict in judgement.parts.items()
        if verdict.problem is not None
    )
    return dict(names.most_common())


def check_judged(judgements: Sequence[Judgement], most_share: float) -> None:
    """Raises InputError if more than this share of the answers could not be judged."""
    bad = [judgement for judgement in judgements if judgement.value is None]
    if len(bad) > most_share * len(judgements):
        counts = ", ".join(f"{name} ({count})" for name, count in problem_counts(bad).items())
        what = f"{len(bad)} of {len(judgements)} answers could not be judged: {counts}; the first: {bad[0].problems[0]}"
        raise InputError(what, fix="Correct the reward or its rows; the answers are kept in the run's samples.")


def fields_of(rewards: Sequence[Reward]) -> dict[str, str]:
    """The fields of rows that the job says are read, each with the name of a reward that reads it."""
    return {field: title_of(reward) for reward in rewards if (field := getattr(reward, "field", None)) is not None}


def check_rows(fields: Mapping[str, str], rows: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Raises InputError with every row, by its origin (`FILE row N`), that lacks one of the `fields` of rewards."""
    problems = RowProblems(())
    for origin, row in rows:
        for field, name in fields.items():
            if row.get(field) is None:
                problems.add_said(origin, "missing_column", lacking(field, name))
    problems.raise_any()


def lacking(field: str, reward: str) -> str:
    return f"the row has no {field}, which reward {reward} reads"
