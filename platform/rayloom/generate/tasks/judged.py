"""Tasks that judge several answers to a prompt: the best of them, and preference pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rayloom.generate.asks import Found, ModelAnswer, Steps
from rayloom.generate.filters.filter import Candidate
from rayloom.generate.given import Given
from rayloom.generate.tasks.task import Maker, OfGivenRows, conversation_of, failure
from rayloom.generate.verdicts import letter_of, points_of, verdict_of
from rayloom.rewards.answer import WrittenAnswer
from rayloom.rewards.opening import OpenReward, weighted
from rayloom.specs.generation.tasks import BestOfTask

VERDICT_TOKENS = 8
"""Room for a verdict of one word."""
POINTS = (1, 10)
"""The worst and the best."""


class _Judged(OfGivenRows):
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


class BestOf(_Judged):
    """The answer with the most points, of a judge or of rewards."""

    def __init__(
        self, maker: Maker, rows: Iterator[Given], task: BestOfTask, rewards: Sequence[OpenReward] = ()
    ) -> None:
        super().__init__(maker, rows)
        self._task, self._rewards = task, rewards
        self.prompt_names = ("answer",) if rewards else ("answer", "points")

    def written(self, number: int, rows: Sequence[Given], found: Found) -> Steps:
        answers = yield from self.sampled(number, rows, self._task.num_samples)
        good = [self.good(found, row, several) for row, several in zip(rows, answers, strict=True)]
        if self._rewards:
            self._rewarded(found, rows, good)
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

    def _rewarded(self, found: Found, rows: Sequence[Given], good: Sequence[Sequence[ModelAnswer]]) -> None:
        answers = [
            WrittenAnswer([{"role": "user", "content": row.text}], answer.text.strip(), row.values, answer.is_cut)
            for row, several in zip(rows, good, strict=True)
            for answer in several
        ]
        judgements = iter(weighted(self._rewards, answers))
        for row, several in zip(rows, good, strict=True):
            judged = [(judgement, answer) for answer, judgement in zip(several, judgements, strict=False)]
            known = [one for one in judged if one[0].value is not None]
            if not known:
                found.drop("no_points", "; ".join(judged[0][0].problems) if judged else "", prompt=row.text)
                continue
            best, answer = max(known, key=lambda one: one[0].value or 0.0)
            parts = {name: verdict.value for name, verdict in best.parts.items()}
            self._add(found, row, {"answer": answer}, {"points": best.value, "rewards": parts})

    def _add(self, found: Found, row: Given, made_of: dict[str, ModelAnswer], beside: dict[str, Any]) -> None:
        answer = made_of["answer"]
        text, made = answer.text.strip(), self.maker.made_by(made_of, [row.origin], answer)
        fields = conversation_of(row.text, text) | dict(row.kept) | beside | {"made_by": made}
        self.maker.keep(found, Candidate(row.text, text), fields)


class Pairs(_Judged):
    """Two answers, of which the judge prefers the same in both orders."""

    prompt_names = ("answer", "compare")

    def written(self, number: int, rows: Sequence[Given], found: Found) -> Steps:
        answers = yield from self.sampled(number, rows, 2)
        both: list[tuple[Given, ModelAnswer, ModelAnswer]] = []
        for row, several in zip(rows, answers, strict=True):
            good = self.good(found, row, several)
            if len(good) == 2:
                both.append((row, good[0], good[1]))
            elif good and several[0].text.strip() == several[1].text.strip():
                found.drop("same_answers", several[0].text, prompt=row.text)
        prompt = self.maker.prompts.text
        texts = [
            prompt("compare", prompt=row.text, first=one.text.strip(), second=other.text.strip())
            for row, first, second in both
            for one, other in ((first, second), (second, first))
        ]
        verdicts = yield self.asks(number, "compare", texts, **_VERDICT)
        for place, (row, first, second) in enumerate(both):
            self._add(found, row, first, second, verdicts[2 * place : 2 * place + 2])
        return found

    def _add(
        self, found: Found, row: Given, first: ModelAnswer, second: ModelAnswer, verdicts: Sequence[ModelAnswer]
    ) -> None:
        letters = [letter_of(one.text) for one in verdicts]
        said = verdict_of(letters)
        if said not in ("first", "second"):
            reason = "judge_undecided" if said == "undecided" else said
            found.drop(reason, f"{letters[0]}, then {letters[1]}", prompt=row.text)
            return
        better, worse = (first, second) if said == "first" else (second, first)
        used = {"answer": better, "compare": verdicts[0]}
        made = {"judge": verdicts[0].model, "made_by": self.maker.made_by(used, [row.origin], better)}
        turns = {
            "prompt": [{"role": "user", "content": row.text}],
            "chosen": [{"role": "assistant", "content": better.text.strip()}],
            "rejected": [{"role": "assistant", "content": worse.text.strip()}],
        }
        self.maker.keep(found, Candidate(row.text, better.text.strip()), turns | dict(row.kept) | made)


_VERDICT: dict[str, Any] = {"by_judge": True, "is_sampled": False, "max_new_tokens": VERDICT_TOKENS}
