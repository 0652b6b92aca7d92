"""Tasks that answer given prompts: a teacher's answers, self-consistency, labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rayloom.generate.agreement import Consensus, named_label
from rayloom.generate.asks import Found, ModelAnswer, Steps
from rayloom.generate.filters.filter import Candidate, DropReason
from rayloom.generate.given import Given
from rayloom.generate.tasks.task import Maker, OfGivenRows, conversation_of, failure
from rayloom.specs.generation.tasks import AnswersTask, ConsistencyTask, LabelsTask

LABEL_TOKENS = 8
"""Room for a label, at least."""


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
        longest = max(LABEL_TOKENS, *(len(label) for label in task.labels))
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
