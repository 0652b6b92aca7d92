"""What a judge is asked about answers, and what became of it: every outcome has a name, and none is made up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from rayloom.generate.asks import Ask, ModelAnswer
from rayloom.generate.comparing.pairwise import Duel
from rayloom.generate.comparing.prompts import AnsweredPrompt
from rayloom.generate.given import whole_characters
from rayloom.generate.prompts import Rubric
from rayloom.generate.verdicts import letter_of, points_of, verdict_of
from rayloom.specs.compare import CompareSpec, JudgedCriterion, PairJudging, ScoreJudging

VALUES = {"first": 1.0, "second": 0.0, "tie": 0.5, "undecided": 0.5, "same_answers": 0.5}
"""What an outcome counts for the first. `undecided`: the judge's answer changed with the order, which counts as a tie,
as in Zheng et al. 2023. Others count nothing: `no_verdict` (the judge's reply names none), `judge_failed` (it refused
the request) and `no_answer` (a model has none)."""
UNJUDGED = ("no_verdict", "no_points", "judge_failed")


class WayOfJudging(Protocol):
    """A way of judging. A judgement is one line of judgements.jsonl."""

    def asks(self, rows: Sequence[AnsweredPrompt]) -> list[Ask]: ...

    def judgements(self, rows: Sequence[AnsweredPrompt], said: Mapping[str, ModelAnswer]) -> Iterator[dict[str, Any]]:
        """`said`: the judge's reply by the key of the request."""

    def duels(self, judgements: Sequence[dict[str, Any]]) -> list[Duel]:
        """Those that count."""


def judge_of(spec: CompareSpec, rubric: Rubric) -> WayOfJudging:
    """The way of judging that the job names."""
    names = [one.name for one in spec.models]
    if isinstance(spec.judging, PairJudging):
        return JudgedPairs(pairs_of(names, spec.judging.against), rubric, spec.max_reply_tokens)
    return JudgedScores(names, spec.judging, rubric, spec.max_reply_tokens)


def pairs_of(names: Sequence[str], against: str | None) -> list[tuple[str, str]]:
    """Every two, or each with one."""
    if against is not None:
        return [(name, against) for name in names if name != against]
    return list(itertools.combinations(names, 2))


class JudgedPairs:
    """Two answers side by side, in both orders."""

    def __init__(self, pairs: Sequence[tuple[str, str]], rubric: Rubric, max_reply_tokens: int) -> None:
        self.pairs, self._rubric, self._most = pairs, rubric, max_reply_tokens

    def asks(self, rows: Sequence[AnsweredPrompt]) -> list[Ask]:
        return [
            self._ask(row, one, other)
            for row in rows
            for first, second in self.pairs
            if _why_not(row, first, second) is None
            for one, other in ((first, second), (second, first))
        ]

    def _ask(self, row: AnsweredPrompt, one: str, other: str) -> Ask:
        shown = {"first": row.answers[one].text.strip(), "second": row.answers[other].text.strip()}
        text = self._rubric.text(prompt=row.row.text, **shown, row=row.row.values)
        return _ask(f"{row.number}/{one}/{other}", text, self._most)

    def judgements(self, rows: Sequence[AnsweredPrompt], said: Mapping[str, ModelAnswer]) -> Iterator[dict[str, Any]]:
        for row in rows:
            for first, second in self.pairs:
                outcome = _why_not(row, first, second)
                replies = [said.get(f"{row.number}/{one}/{two}") for one, two in ((first, second), (second, first))]
                beside: dict[str, Any] = {}
                if outcome is None:
                    outcome, beside = _verdict([reply for reply in replies if reply is not None])
                yield {**_about(row), "first": first, "second": second, "outcome": outcome, **beside}

    def duels(self, judgements: Sequence[dict[str, Any]]) -> list[Duel]:
        return [
            Duel(one["number"], one["first"], one["second"], VALUES[one["outcome"]])
            for one in judgements
            if one["outcome"] in VALUES
        ]


def _why_not(row: AnsweredPrompt, first: str, second: str) -> str | None:
    """The outcome of a pair that the judge is not asked about; None if it is."""
    one, other = row.answers[first], row.answers[second]
    if one.failed is not None or other.failed is not None:
        return "no_answer"
    return "same_answers" if one.text.strip() == other.text.strip() else None


def _verdict(replies: Sequence[ModelAnswer]) -> tuple[str, dict[str, Any]]:
    failed = next((reply.failed for reply in replies if reply.failed is not None), None)
    if failed is not None:
        return "judge_failed", {"said": failed}
    letters = [letter_of(reply.text) for reply in replies]
    return verdict_of(letters), {"letters": letters, "said": [reply.text for reply in replies]}


class JudgedScores:
    """A number for each answer by each criterion."""

    def __init__(self, names: Sequence[str], judging: ScoreJudging, rubric: Rubric, max_reply_tokens: int) -> None:
        self._names, self._judging, self._rubric, self._most = names, judging, rubric, max_reply_tokens

    def asks(self, rows: Sequence[AnsweredPrompt]) -> list[Ask]:
        return [
            self._ask(row, name, criterion)
            for row in rows
            for name in self._names
            if row.answers[name].failed is None
            for criterion in self._judging.criteria
        ]

    def _ask(self, row: AnsweredPrompt, name: str, criterion: JudgedCriterion) -> Ask:
        text = self._rubric.text(
            prompt=row.row.text,
            answer=row.answers[name].text.strip(),
            criterion=criterion.name,
            description=criterion.description,
            lowest=self._judging.lowest,
            highest=self._judging.highest,
            row=row.row.values,
        )
        return _ask(f"{row.number}/{name}/{criterion.name}", text, self._most)

    def judgements(self, rows: Sequence[AnsweredPrompt], said: Mapping[str, ModelAnswer]) -> Iterator[dict[str, Any]]:
        for row in rows:
            for name in self._names:
                for criterion in self._judging.criteria:
                    found = {"outcome": "no_answer"}
                    if row.answers[name].failed is None:
                        found = self._points(said[f"{row.number}/{name}/{criterion.name}"])
                    yield {**_about(row), "model": name, "criterion": criterion.name, **found}

    def _points(self, reply: ModelAnswer) -> dict[str, Any]:
        if reply.failed is not None:
            return {"outcome": "judge_failed", "said": reply.failed}
        points = points_of(reply.text, self._judging.lowest, self._judging.highest)
        if points is None:
            return {"outcome": "no_points", "said": reply.text}
        return {"outcome": "scored", "points": points, "said": reply.text}

    def duels(self, judgements: Sequence[dict[str, Any]]) -> list[Duel]:
        points: dict[int, dict[str, list[int]]] = {}
        for one in judgements:
            if one["outcome"] == "scored":
                points.setdefault(one["number"], {}).setdefault(one["model"], []).append(one["points"])
        wanted, found = len(self._judging.criteria), []
        for number, by_model in points.items():
            sums = {name: sum(by_model[name]) for name in self._names if len(by_model.get(name, ())) == wanted}
            for first, second in itertools.combinations(sums, 2):
                better = (sums[first] > sums[second]) - (sums[first] < sums[second])
                found.append(Duel(number, first, second, (1 + better) / 2))
        return found


def _about(row: AnsweredPrompt) -> dict[str, Any]:
    return {"number": row.number, "origin": row.row.origin, "prompt": row.row.text}


def _ask(key: str, text: str, max_reply_tokens: int) -> Ask:
    return Ask(key, whole_characters(text), "rubric", is_sampled=False, by_judge=True, max_new_tokens=max_reply_tokens)
