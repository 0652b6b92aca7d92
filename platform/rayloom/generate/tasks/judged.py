"""Tasks that judge several answers to a prompt: the best of them, and preference pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rayloom.generate.asks import Found, ModelAnswer, Steps
from rayloom.generate.filters.filter import Candidate
from rayloom.generate.given import Given
from rayloom.generate.tasks.task import Maker, OfGivenRows, conversation_of, failure
from rayloom.generate.verdicts import letter_of, points_of, verdict_of
from rayloom.rewards.answer import WrittenAnswer
from rayloom.rewards.opening import OpenReward, weighted
from rayloom.specs.generation.tasks import BestOfTask, PairsTask

VERDICT_TOKENS = 8
"""Room for a verdict of one word."""
POINTS = (1, 10)
"""The worst and the best."""


class _Judged(OfGivenRows):
    """Several answers to each row, of which a judge or rewards choose.

    rewards: opened; none while a job is only planned.
    """

    judging_prompt: str

    def __init__(
        self, maker: Maker, rows: Iterator[Given], task: BestOfTask | PairsTask, rewards: Sequence[OpenReward] = ()
    ) -> None:
        super().__init__(maker, rows)
        self._num_samples, self._rewards = task.num_samples, rewards
        self.prompt_names = ("answer",) if task.rewards is not None else ("answer", self.judging_prompt)

    def good(self, found: Found, row: Given, several: Sequence[ModelAnswer]) -> list[ModelAnswer]:
        """The answers that no filter drops, each text once."""
        kept: dict[str, ModelAnswer] = {}
        for answer in several:
            candidate = Candidate(row.text, answer.text.strip(), answer.is_cut)
            drop = failure(answer) or self.maker.filters.of_row(candidate)
            if drop is None:
                kept.setdefault(candidate.answer, answer)
            else:
                found.drop(drop.reason, answer.text, prompt=row.text, seen=drop.seen)
        return list(kept.values())

    def rewarded(
        self, found: Found, rows: Sequence[Given], good: Sequence[Sequence[ModelAnswer]]
    ) -> Iterator[tuple[Given, list[_Rewarded]]]:
        """Each row with its answers to which all rewards give a number, best first. Rows without are dropped."""
        answers = [
            WrittenAnswer([{"role": "user", "content": row.text}], answer.text.strip(), row.values, answer.is_cut)
            for row, several in zip(rows, good, strict=True)
            for answer in several
        ]
        judgements = iter(weighted(self._rewards, answers))
        for row, several in zip(rows, good, strict=True):
            judged = [(answer, next(judgements)) for answer in several]
            known = [
                _Rewarded(judgement.value, {name: one.value for name, one in judgement.parts.items()}, answer)
                for answer, judgement in judged
                if judgement.value is not None
            ]
            if known:
                yield row, sorted(known, key=lambda one: -one.points)
            else:
                found.drop("no_points", "; ".join(judged[0][1].problems) if judged else "", prompt=row.text)


@dataclass(frozen=True)
class _Rewarded:
    """An answer with its points: their sum by weights, and those of each reward."""

    points: float
    rewards: dict[str, float | None]
    answer: ModelAnswer


class BestOf(_Judged):
    """The answer with the most points, of a judge or of rewards."""

    judging_prompt = "points"

    def written(self, number: int, rows: Sequence[Given], found: Found) -> Steps:
        answers = yield from self.sampled(number, rows, self._num_samples)
        good = [self.good(found, row, several) for row, several in zip(rows, answers, strict=True)]
        if self._rewards:
            for row, ranked in self.rewarded(found, rows, good):
                best = ranked[0]
                self._add(found, row, {"answer": best.answer}, {"points": best.points, "rewards": best.rewards})
            return found
        prompt = self.maker.prompts.text
        texts = [
            prompt("points", prompt=row.text, answer=answer.text.strip())
            for row, several in zip(rows, good, strict=True)
            for answer in several
        ]
        verdicts = iter((yield self.asks(number, "points", texts, **_VERDICT)))
        for row, several in zip(rows, good, strict=True):
            judged = [
                (points_of(verdict.text, *POINTS), answer, verdict)
                for answer, verdict in zip(several, verdicts, strict=False)
            ]
            known = [one for one in judged if one[0] is not None]
            if not known:
                found.drop("no_points", judged[0][2].text if judged else "", prompt=row.text)
                continue
            points, answer, verdict = max(known, key=lambda one: one[0] or 0)
            made_of = {"answer": answer, "points": verdict}
            self._add(found, row, made_of, {"points": points, "judge": verdict.model})
        return found

    def _add(self, found: Found, row: Given, made_of: dict[str, ModelAnswer], beside: dict[str, Any]) -> None:
        answer = made_of["answer"]
        text, made = answer.text.strip(), self.maker.made_by(made_of, [row.origin], answer)
        fields = conversation_of(row.text, text) | dict(row.kept) | beside | {"made_by": made}
        self.maker.keep(found, Candidate(row.text, text), fields)


class Pairs(_Judged):
    """Two answers, of which the judge prefers the same in both orders, or the rewards give one more points."""

    judging_prompt = "compare"

    def written(self, number: int, rows: Sequence[Given], found: Found) -> Steps:
        answers = yield from self.sampled(number, rows, self._num_samples)
        differing: list[tuple[Given, list[ModelAnswer]]] = []
        for row, several in zip(rows, answers, strict=True):
            good = self.good(found, row, several)
            if len(good) > 1:
                differing.append((row, good))
            elif good and len({answer.text.strip() for answer in several}) == 1:
                found.drop("same_answers", several[0].text, prompt=row.text)
        if self._rewards:
            self._by_rewards(found, differing)
            return found
        prompt = self.maker.prompts.text
        texts = [
            prompt("compare", prompt=row.text, first=one.text.strip(), second=other.text.strip())
            for row, (first, second) in differing
            for one, other in ((first, second), (second, first))
        ]
        verdicts = yield self.asks(number, "compare", texts, **_VERDICT)
        for place, (row, (first, second)) in enumerate(differing):
            self._by_judge(found, row, first, second, verdicts[2 * place : 2 * place + 2])
        return found

    def _by_rewards(self, found: Found, differing: Sequence[tuple[Given, Sequence[ModelAnswer]]]) -> None:
        rows, good = [row for row, _ in differing], [several for _, several in differing]
        for row, ranked in self.rewarded(found, rows, good):
            best, worst = ranked[0], ranked[-1]
            if best.points == worst.points:
                found.drop("equal_points", f"{best.points:g}: {best.answer.text}", prompt=row.text)
                continue
            points = {"chosen": best.points, "rejected": worst.points}
            self._add(found, row, best.answer, worst.answer, {"answer": best.answer}, {"points": points})

    def _by_judge(
        self, found: Found, row: Given, first: ModelAnswer, second: ModelAnswer, verdicts: Sequence[ModelAnswer]
    ) -> None:
        letters = [letter_of(one.text) for one in verdicts]
        said = verdict_of(letters)
        if said not in ("first", "second"):
            reason = "judge_undecided" if said == "undecided" else said
            found.drop(reason, f"{letters[0]}, then {letters[1]}", prompt=row.text)
            return
        better, worse = (first, second) if said == "first" else (second, first)
        made_of = {"answer": better, "compare": verdicts[0]}
        self._add(found, row, better, worse, made_of, {"judge": verdicts[0].model})

    def _add(
        self,
        found: Found,
        row: Given,
        better: ModelAnswer,
        worse: ModelAnswer,
        made_of: dict[str, ModelAnswer],
        beside: dict[str, Any],
    ) -> None:
        made = beside | {"made_by": self.maker.made_by(made_of, [row.origin], better)}
        turns = {
            "prompt": [{"role": "user", "content": row.text}],
            "chosen": [{"role": "assistant", "content": better.text.strip()}],
            "rejected": [{"role": "assistant", "content": worse.text.strip()}],
        }
        self.maker.keep(found, Candidate(row.text, better.text.strip()), turns | dict(row.kept) | made)


_VERDICT: dict[str, Any] = {"by_judge": True, "is_sampled": False, "max_new_tokens": VERDICT_TOKENS}
