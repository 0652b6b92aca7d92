"""Rewards that compare an answer's text: exact match, number, regular expression, and texts that it contains."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import regex

from rayloom.rewards.answer import CannotJudgeError, WrittenAnswer
from rayloom.specs.training.rewards import ContainsReward, ExactReward, NumericReward, RegexReward

MOST_SECONDS_OF_A_PATTERN = 0.5
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(rf"(?<![\w.])[-+−]?(?:{_WHOLE}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{{1,3}})?(?:\s?/\s?\d+)?%?")


def exact(spec: ExactReward, answer: WrittenAnswer) -> float:
    said, right = compared(answer.text, spec.after), str(field_of(answer, spec.field))
    if said is None:
        return 0.0
    return float(_folded(said, spec.ignore_case).strip() == _folded(right, spec.ignore_case).strip())


def numeric(spec: NumericReward, answer: WrittenAnswer) -> float:
    said, right = compared(answer.text, spec.after), last_number(str(field_of(answer, spec.field)))
    if right is None:
        raise CannotJudgeError("no_number_in_field", f"{spec.field} is {field_of(answer, spec.field)!r:.80}")
    number = None if said is None else last_number(said)
    return float(number is not None and abs(number - right) <= Fraction(spec.tolerance) * abs(right))


def matches(spec: RegexReward, answer: WrittenAnswer) -> float:
    # A pattern such as (a+)+b takes for ever on some texts; the package regex has a time limit, re has not.
    search = regex.fullmatch if spec.whole else regex.search
    try:
        return float(search(spec.pattern, answer.text, timeout=MOST_SECONDS_OF_A_PATTERN) is not None)
    except TimeoutError:
        limit = f"the pattern was not done after {MOST_SECONDS_OF_A_PATTERN:g} s"
        raise CannotJudgeError("took_too_long", limit) from None


def contains(spec: ContainsReward, answer: WrittenAnswer) -> float:
    wanted = _texts(field_of(answer, spec.field)) if spec.field is not None else spec.texts
    if not wanted:
        raise CannotJudgeError("empty_field", f"{spec.field} holds no text")
    text = _folded(answer.text, spec.ignore_case).strip()
    is_there = {"anywhere": text.__contains__, "start": text.startswith, "end": text.endswith}[spec.at]
    return sum(is_there(_folded(one, spec.ignore_case)) for one in wanted) / len(wanted)


def field_of(answer: WrittenAnswer, field: str) -> Any:
    """The row's field. Raises CannotJudgeError if the row lacks it; `opening.check_rows` has seen to it before."""
    if answer.row.get(field) is None:
        raise CannotJudgeError("missing_field", f"the row has no {field}")
    return answer.row[field]


def compared(text: str, after: str | None) -> str | None:
    """The part of an answer that is compared; None if it has no such mark."""
    if after is None:
        return text
    _, mark, rest = text.rpartition(after)
    return rest if mark else None


def last_number(text: str) -> Fraction | None:
    """The last number in a text, exactly; None if there is none."""
    found = _NUMBER.findall(text)
    try:
        return _value(found[-1]) if found else None
    except (ValueError, ZeroDivisionError):  # thousands of digits, or a fraction over 0
        return None


def _value(written: str) -> Fraction:
    plain = re.sub(r"[,\s]", "", written).replace("−", "-")
    above, _, below = plain.removesuffix("%").partition("/")
    value = Fraction(above) / int(below or 1)
    return value / 100 if plain.endswith("%") else value


def _texts(found: Any) -> list[str]:
    return [str(one) for one in found if str(one)] if isinstance(found, list | tuple) else [str(found)]


def _folded(text: str, ignore_case: bool) -> str:
    return text.casefold() if ignore_case else text
