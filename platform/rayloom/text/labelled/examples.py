"""Labelled texts as plain values: what every form of labelled data is read into, and kept as for evaluation.

Places in a text are characters of it, the end not included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayloom.specs.training.labelled_data import LabelledProblem


class ExampleError(ValueError):
    """What is wrong with one row. Whoever reads the rows adds which one it is."""

    def __init__(self, problem: LabelledProblem, said: str) -> None:
        super().__init__(said)
        self.problem = problem


@dataclass(frozen=True)
class Span:
    """A part of a text and what it is: an entity's kind, `head` or `tail` of a relation, `answer` to a question."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Example:
    """One text, and what is known about it."""

    text: str
    pair: str | None = None
    """The second text; of a question, the question."""
    labels: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    origin: str = ""
    """Where it was read: `reviews.csv row 7`."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Example:
        spans = tuple(Span(**span) for span in values.get("spans", ()))
        return cls(values["text"], values.get("pair"), tuple(values.get("labels", ())), spans, values.get("origin", ""))


def write_examples(examples: Iterable[Example], file: Path) -> None:
    lines = (json.dumps(example.as_json(), ensure_ascii=False) + "\n" for example in examples)
    file.write_text("".join(lines), encoding="utf-8")


def read_examples(file: Path) -> Iterator[Example]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield Example.from_json(json.loads(line))
