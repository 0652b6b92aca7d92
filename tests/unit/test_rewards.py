"""Rewards: what each gives to an answer, a named problem where it cannot judge, and their weighted sum."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from rayloom.errors import InputError
from rayloom.rewards.answer import Verdict, WrittenAnswer
from rayloom.rewards.opening import Judgement, check_judged, check_rows, fields_of, opened, problem_counts, weighted
from rayloom.rewards.texts import last_number
from rayloom.specs.training.rewards import Reward, Rewards


def rewards_of(*values: dict[str, Any]) -> tuple[Reward, ...]:
    return TypeAdapter(Rewards).validate_python(values)


def judged(text: str, *values: dict[str, Any], **row: Any) -> Judgement:
    with opened(rewards_of(*values), "rewards", {}, Path()) as rewards:
        return weighted(rewards, [WrittenAnswer([{"role": "user", "content": "?"}], text, row)])[0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 1,234.5 it is", Fraction("1234.5")),
        ("3-4", 4),
        ("it is -3.", -3),
        ("it is −3", -3),
        ("2/3", Fraction(2, 3)),
        ("half is 50%", Fraction(1, 2)),
        ("1e-3", Fraction(1, 1000)),
        ("1, 2, 3", 3),
        ("12,3456", 3456),
        (".5", Fraction(1, 2)),
        ("$5 each", 5),
        ("7km", 7),
        ("version2 has none", None),
        ("1/0", None),
        ("9" * 9000, None),
        ("no number", None),
    ],
)
def test_the_last_number_of_a_text(text: str, number: Fraction | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("reward", "text", "row", "value"),
    [
        ({"type": "exact", "field": "a"}, " Paris\n", {"a": "Paris"}, 1),
        ({"type": "exact", "field": "a"}, "paris", {"a": "Paris"}, 0),
        ({"type": "exact", "field": "a", "ignore_case": True}, "STRASSE", {"a": "straße"}, 1),
        ({"type": "exact", "field": "a", "after": "####"}, "so\n#### 1 #### 7", {"a": 7}, 1),
        ({"type": "exact", "field": "a", "after": "####"}, "7", {"a": 7}, 0),
        ({"type": "numeric", "field": "a"}, "3 + 4 is 7.0", {"a": "7"}, 1),
        ({"type": "numeric", "field": "a"}, "7, for 3 + 4", {"a": 7}, 0),
        ({"type": "numeric", "field": "a"}, "I do not know", {"a": 7}, 0),
        ({"type": "numeric", "field": "a", "tolerance": 0.01}, "3.14", {"a": 3.14159}, 1),
        ({"type": "numeric", "field": "a", "tolerance": 0.0001}, "3.14", {"a": 3.14159}, 0),
        ({"type": "regex", "pattern": r"\d{4}-\d\d"}, "on 2026-11", {}, 1),
        ({"type": "regex", "pattern": r"\d{4}-\d\d", "whole": True}, "on 2026-11", {}, 0),
        ({"type": "contains", "texts": ["salt", "pepper"]}, "Salt and pepper", {}, 0.5),
        ({"type": "contains", "texts": ["salt"], "at": "start", "ignore_case": True}, " Salt and", {}, 1),
        ({"type": "contains", "field": "a", "at": "end"}, "the end.\n", {"a": ["end.", "and"]}, 0.5),
    ],
)
def test_what_a_reward_gives(reward: dict[str, Any], text: str, row: dict[str, Any], value: float) -> None:
    assert judged(text, reward, **row).value == value


@pytest.mark.parametrize(
    ("reward", "text", "row", "problem"),
    [
        ({"type": "exact", "field": "a"}, "7", {}, "exact: missing_field"),
        ({"type": "numeric", "field": "a"}, "7", {"a": "seven"}, "numeric: no_number_in_field"),
        ({"type": "contains", "field": "a"}, "7", {"a": []}, "contains: empty_field"),
        ({"type": "regex", "name": "slow", "pattern": "^(a|aa)+$"}, "a" * 60 + "b", {}, "slow: took_too_long"),
    ],
)
def test_an_answer_that_cannot_be_judged_has_a_named_problem_and_no_number(
    reward: dict[str, Any], text: str, row: dict[str, Any], problem: str
) -> None:
    judgement = judged(text, reward, {"type": "regex", "name": "other", "pattern": "7"}, **row)
    assert judgement.value is None
    assert problem_counts([judgement]) == {problem: 1}
    with pytest.raises(InputError, match=f"1 of 1 answers could not be judged: {problem}"):
        check_judged([judgement], most_share=0.5)


def test_numbers_are_added_by_weight_and_keep_their_names() -> None:
    right = {"type": "numeric", "field": "a", "weight": 2.0}
    rude = {"type": "contains", "name": "rude", "texts": ["idiot"], "weight": -0.5}
    judgement = judged("7, idiot", right, rude, a=7)
    assert judgement.parts == {"numeric": Verdict(1.0), "rude": Verdict(1.0)}
    assert judgement.value == 1.5
    check_judged([judgement], most_share=0.0)


def test_rows_without_a_field_that_a_reward_needs_are_named_before_anything_runs() -> None:
    rewards = rewards_of({"type": "exact", "field": "answer"}, {"type": "regex", "pattern": "x"})
    rows: list[tuple[str, dict[str, Any]]] = [("x.json row 1", {"answer": 1}), ("x.json row 2", {"answer": None})]
    with pytest.raises(InputError, match=r"1 row .*\n  x.json row 2 \(missing_column\): the row has no answer, which"):
        check_rows(fields_of(rewards), rows)
    check_rows(fields_of(rewards), rows[:1])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([{"type": "exact", "field": "a"}, {"type": "exact", "field": "b"}], "two rewards have the name exact"),
        ([{"type": "regex", "pattern": "("}], "is no regular expression"),
        ([{"type": "contains"}], "give either texts or field"),
        ([], "at least 1"),
    ],
)
def test_rewards_that_cannot_be(values: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        rewards_of(*values)


SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
ENGLISH, GERMAN = "The weather was fine and we went out.", "Das Wetter war schön, und wir gingen hinaus."


@pytest.mark.parametrize(
    ("reward", "text", "value"),
    [
        ({"type": "json_schema", "schema": SCHEMA}, 'Here:\n```json\n{"n": 1}\n```\nDone.', 1),
        ({"type": "json_schema", "schema": SCHEMA}, '{"n": "1"}', 0),
        ({"type": "json_schema", "schema": SCHEMA}, '{"n": 1', 0),
        ({"type": "json_schema", "schema": SCHEMA}, "[" * 100_000, 0),
        ({"type": "length", "at_most": 3}, "one two three", 1),
        ({"type": "length", "at_most": 3}, "one two three four", 0),
        ({"type": "length", "at_most": 3, "slack": 4}, "one two three four", 0.75),
        ({"type": "length", "at_least": 4, "slack": 2, "unit": "characters"}, "abc", 0.5),
        ({"type": "format", "tags": ["think", "answer"]}, "<think>\na</think>\n<answer>7</answer>\n", 1),
        ({"type": "format", "tags": ["think", "answer"]}, "<think>a</think><answer>7</answer> so", 0),
        ({"type": "format", "tags": ["think"]}, "<think>a</think><think>a</think>", 0),
        ({"type": "language", "language": "de"}, GERMAN, 1),
        ({"type": "language", "language": "de"}, ENGLISH, 0),
    ],
)
def test_the_form_of_an_answer(reward: dict[str, Any], text: str, value: float) -> None:
    assert judged(text, reward).value == value


def test_a_schema_can_stand_in_the_row_and_names_nothing_on_the_network() -> None:
    by_row = {"type": "json_schema", "field": "schema"}
    assert judged("[1]", by_row, schema='{"type": "array"}').value == 1
    assert "bad_schema" in judged("[1]", by_row, schema='{"type": 3}').problems[0]
    assert "bad_schema" in judged("1", by_row, schema={"$ref": "http://127.0.0.1:9/x.json"}).problems[0]
    with pytest.raises(InputError, match="The schema of a reward is none"):
        judged("1", {"type": "json_schema", "schema": {"type": 3}})
