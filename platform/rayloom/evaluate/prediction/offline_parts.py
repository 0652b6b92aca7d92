"""A prediction's parts answered by vLLM's offline engine: answers come in no order, a part is written when whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayloom.evaluate.offline.engine import EngineUse, answered
from rayloom.evaluate.prediction.parts import Parts, read_part, write_answers
from rayloom.models.responders.responder import TextResponder
from rayloom.models.responders.subject import Subject
from rayloom.specs.predict import PredictSpec
from rayloom.text.labelled.examples import ExampleError


def answered_parts(spec: PredictSpec, subject: Subject, parts: Parts, missing: Sequence[int]) -> Iterator[int]:
    """Answers the missing parts; gives the number of rows of each as it is whole and written."""
    use = EngineUse(
        subject,
        spec.generation,
        spec.micro_batch_sequences,
        spec.num_workers,
        spec.cpus_per_worker,
        spec.gpus_per_worker,
    )
    unfinished: dict[int, _Part] = {}
    for number in missing:
        part = _Part(number, parts, TextResponder(subject, spec.generation))
        if part.is_whole:
            yield part.write()
        else:
            unfinished[number] = part
    if not unfinished:
        return
    for row in answered(use, [{"part": number} for number in unfinished], _Questions(parts, use)):
        part = unfinished[row.pop("part")]
        part.answers[row.pop("row")] = row
        if part.is_whole:
            yield part.write()
            del unfinished[part.number]


@dataclass
class _Part:
    """What is known of a part by now. Its rows stay on disk."""

    number: int
    parts: Parts
    responder: TextResponder
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.answers |= {number: said for number, row in self._rows() if (said := refused(self.responder, row))}
        self._num_rows = len(self._rows())

    def _rows(self) -> list[tuple[int, dict[str, Any]]]:
        return list(enumerate(read_part(self.parts.questions(self.number))))

    @property
    def is_whole(self) -> bool:
        return len(self.answers) == self._num_rows

    def write(self) -> int:
        rows = [row for _, row in self._rows()]
        write_answers(rows, [self.answers[number] for number in range(len(rows))], self.parts.answers(self.number))
        return len(rows)


def refused(responder: TextResponder, row: dict[str, Any]) -> dict[str, Any]:
    """Why a row cannot be asked; empty where it can."""
    try:
        responder.check(row)
    except ExampleError as error:
        return {"failed": f"{error.problem}: {error}"}
    return {}


@dataclass(frozen=True)
class _Questions:
    """A part's rows as what the engine is asked."""

    parts: Parts
    use: EngineUse

    def __call__(self, part: dict[str, Any]) -> list[dict[str, Any]]:
        responder = TextResponder(self.use.subject, self.use.generation)
        stop_tokens = sorted(self.use.subject.renderer.stop_tokens)
        number = int(part["part"])
        return [
            self.use.asked(responder.prompt(row), stop_tokens, part=number, row=place)
            for place, row in enumerate(read_part(self.parts.questions(number)))
            if not refused(responder, row)
        ]
