"""Tasks that answer given prompts: a teacher's answers, self-consistency, labels, the best of several, pairs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rayloom.generate.agreement import Consensus, named_label
from rayloom.generate.asks import Found, ModelAnswer, Steps
from rayloom.generate.filters.filter import Candidate, DropReason
from rayloom.generate.given import Given
from rayloom.generate.tasks.task import Maker, OfGivenRows, conversation_of, failure
from rayloom.specs.generation.tasks import AnswersTask, BestOfTask, ConsistencyTask, LabelsTask

VERDICT_TOKENS = 8
"""Room for a verdict of one word."""
_POINTS = re.compile(r"\b(10|[1-9])\b")
_LETTER = re.compile(r"\b([ABC])\b")


class TeacherAnswers(OfGivenRows):
    """The answers themselves."""

    prompt_names = ("answer",)

    def __init__(self, maker: Maker, rows: Iterator[Given], task: AnswersTask) -> None:
        super().__init__(maker, rows)
        self._task = task

    def written(self, number: int, rows: Sequence[Given], found: Found) -> Steps:
        answers = yield from self.sampled(number, rows, self._task.num_samples)
        for row, several in zip(rows, answers, strict=True):
            for answer in several:
                text = answer.text.strip()
                made = {"made_by": self.maker.made_by({"answer": answer}, [row.origin], answer)}
                fields = conversation_of(row.text, text) | dict(row.kept) | made
                self.maker.keep(found, Candidate(row.text, text, answer.is_cut), fields, failure(answer))
        return found


class Consistency(OfGivenRows):
    """The answer on which most samples agree."""

    prompt_names = ("answer",)

    def __init__(
        self, maker: Maker, rows: Iterator[Given], task: ConsistencyTask, agreed: Callable[[list[str]], Consensus]
    ) -> None:
        super().__init__(maker, rows)
        self._task, self._agreed = task, agreed

    def written(self, number: int, rows: Sequence[Given], found: Found) -> Steps:
        answers = yield from self.sampled(number, rows, self._task.num_samples)
        for row, several in zip(rows, answers, strict=True):
            # Samples that failed or were cut off agree with none, but count: the share is of all that were asked for.
            usable = [answer for answer in several if answer.failed is None and not answer.is_cut]
            agreement = self._agreed([answer.text for answer in usable])
            share = round(agreement.size / len(several), 4)
            chosen = usable[agreement.place] if agreement.size else several[0]
            text = chosen.text.strip()
            made = self.maker.made_by({"answer": chosen}, [row.origin], chosen)
            beside = {"agreement": share, "num_samples": len(several), "made_by": made}
            fields = conversation_of(row.text, text) | dict(row.kept) | beside
            drop = None if agreement.size else failure(chosen) or DropReason("nothing_to_compare")
            if drop is None and share < self._task.min_agreement_share:
                drop = DropReason("too_little_agreement", f"{agreement.size} of {len(several)}")
            self.maker.keep(found, Candidate(row.text, text), fields, drop)
        return found


class Labels(OfGivenRows):
    """The label that most samples name. The texts are people's, so no filter judges them."""

    prompt_names = ("label",)

    def __init__(self, maker: Maker, rows: Iterator[Given], task: LabelsTask) -> None:
        super().__init__(maker, rows)
        self._task = task

    def written(self, number: int, rows: Sequence[Given], found: Found) -> Steps:
        task = self._task
        texts = [
            self.maker.prompts.text("label", text=row.text, labels=task.labels, question=task.question)
            for row in rows
            for _ in range(task.num_samples)
        ]
        longest = max(VERDICT_TOKENS, *(len(label) for label in task.labels))
        how: dict[str, Any] = {"max_new_tokens": longest, "is_sampled": task.num_samples > 1, "stop": ("\n\n",)}
        answers = yield self.asks(number, "label", texts, **how)
        for place, row in enumerate(rows):
            several = answers[place * task.num_samples : (place + 1) * task.num_samples]
            self._add(found, row, several)
        return found

    def _add(self, found: Found, row: Given, several: Sequence[ModelAnswer]) -> None:
        named = [named_label(answer.text, self._task.labels) for answer in several]
        counts = Counter(label for label in named if label is not None)
        if not counts:
            failed = failure(several[0])
            found.drop("no_label" if failed is None else "failed", several[0].text, prompt=row.text)
            return
        label, count = counts.most_common(1)[0]
        confidence = round(count / len(several), 4)
        if confidence < self._task.min_confidence:
            found.drop("unsure_label", f"{label} {confidence}", prompt=row.text)
            return
        sample = several[named.index(label)]
        made = {"confidence": confidence, "made_by": self.maker.made_by({"label": sample}, [row.origin], sample)}
        fields = {"text": row.text, "label": label} | dict(row.kept) | made
        found.rows.append({"prompt": row.text, "answer": label, "is_new": False, "row": fields})

    def restore(self, found: Found) -> None:
        """Nothing is compared."""


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
    """The answer with the most points."""

    prompt_names = ("answer", "points")

    def __init__(self, maker: Maker, rows: Iterator[Given], task: BestOfTask) -> None:
        super().__init__(maker, rows)
        self._task = task

    def written(self, number: int, rows: Sequence[Given], found: Found) -> Steps:
        answers = yield from self.sampled(number, rows, self._task.num_samples)
        good = [self.good(found, row, several) for row, several in zip(rows, answers, strict=True)]
        prompt = self.maker.prompts.text
        texts = [
            prompt("points", prompt=row.text, answer=answer.text.strip())
            for row, several in zip(rows, good, strict=True)
            for answer in several
        ]
        verdicts = iter((yield self.asks(number, "points", texts, **_VERDICT)))
        for row, several in zip(rows, good, strict=True):
            judged = [(_points(verdict), answer, verdict) for answer, verdict in zip(several, verdicts, strict=False)]
            self._add(found, row, [one for one in judged if one[0] is not None])
        return found

    def _add(self, found: Found, row: Given, judged: list[Any]) -> None:
        if not judged:
            found.drop("no_points", "", prompt=row.text)
            return
        points, answer, verdict = max(judged, key=lambda one: one[0])
        made = self.maker.made_by({"answer": answer, "points": verdict}, [row.origin], answer)
        beside = {"points": points, "judge": verdict.model, "made_by": made}
        text = answer.text.strip()
        self.maker.keep(found, Candidate(row.text, text), conversation_of(row.text, text) | dict(row.kept) | beside)


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
        letters = [_letter(verdict) for verdict in verdicts]
        if letters not in (["A", "B"], ["B", "A"]):
            reason = "no_verdict" if None in letters else "tie" if letters == ["C", "C"] else "judge_undecided"
            found.drop(reason, f"{letters[0]}, then {letters[1]}", prompt=row.text)
            return
        better, worse = (first, second) if letters[0] == "A" else (second, first)
        used = {"answer": better, "compare": verdicts[0]}
        made = {"judge": verdicts[0].model, "made_by": self.maker.made_by(used, [row.origin], better)}
        turns = {
            "prompt": [{"role": "user", "content": row.text}],
            "chosen": [{"role": "assistant", "content": better.text.strip()}],
            "rejected": [{"role": "assistant", "content": worse.text.strip()}],
        }
        self.maker.keep(found, Candidate(row.text, better.text.strip()), turns | dict(row.kept) | made)


_VERDICT: dict[str, Any] = {"by_judge": True, "is_sampled": False, "max_new_tokens": VERDICT_TOKENS}


def _points(verdict: ModelAnswer) -> int | None:
    found = _POINTS.search(verdict.text)
    return int(found.group()) if found else None


def _letter(verdict: ModelAnswer) -> str | None:
    found = _LETTER.search(verdict.text)
    return found.group() if found else None
