"""Labelled texts as plain values: what every form of labelled data is read into, and kept as for evaluation.

Places in a text are characters of it, the end not included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayloom.specs.training.labelled_data import LabelledProblem
from rayloom.specs.training.tasks import (
    QuestionAnswering,
    RelationExtraction,
    SequenceToSequence,
    Task,
    TextClassification,
    TokenClassification,
)


class ExampleError(ValueError):
    """What is wrong with one row. Whoever reads the rows adds which one it is."""

    def __init__(self, problem: LabelledProblem, message: str) -> None:
        super().__init__(message)
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
    choices: tuple[str, ...] = ()
    """Of a question with choices, of which the right one is the label."""

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        return values if self.choices else {name: value for name, value in values.items() if name != "choices"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Example:
        spans = tuple(Span(**span) for span in values.get("spans", ()))
        labels, choices = (tuple(values.get(name, ())) for name in ("labels", "choices"))
        return cls(values["text"], values.get("pair"), labels, spans, values.get("origin", ""), choices)


def check_example(task: Task, example: Example) -> None:
    """Raises ExampleError if the example has labels, entities or answers that the task does not have."""
    if isinstance(task, TokenClassification):
        strange = [span for span in example.spans if span.label not in task.entities]
        if strange:
            known = ", ".join(task.entities)
            raise ExampleError("unknown_label", f"{strange[0].label!r} is not among the entities: {known}")
    elif isinstance(task, TextClassification | RelationExtraction):
        _check_labels(example.labels, task)
    if isinstance(task, RelationExtraction) and {span.label for span in example.spans} != {"head", "tail"}:
        raise ExampleError("bad_span", "has no head and tail: read it with {type: relations}")
    if isinstance(task, SequenceToSequence) and len(example.labels) != 1:
        raise ExampleError("missing_column", "has no text to write: read it with {type: pairs}")
    if isinstance(task, QuestionAnswering) and example.pair is None:
        raise ExampleError("missing_column", "has no question: read it with {type: questions}")


def _check_labels(labels: Sequence[str], task: TextClassification | RelationExtraction) -> None:
    unknown = [label for label in labels if label not in task.labels]
    if unknown:
        raise ExampleError("unknown_label", f"{unknown[0]!r} is not among the labels: {', '.join(task.labels)}")
    if isinstance(task, TextClassification) and task.multiple:
        return
    if not labels:
        raise ExampleError("no_label", "has no label")
    if len(labels) > 1:
        raise ExampleError("several_labels", f"has {len(labels)} labels; set task.multiple where that is meant")


def write_examples(examples: Iterable[Example], file: Path) -> None:
    lines = (json.dumps(example.as_json(), ensure_ascii=False) + "\n" for example in examples)
    file.write_text("".join(lines), encoding="utf-8")


def read_examples(file: Path) -> Iterator[Example]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield Example.from_json(json.loads(line))


# BIO tags and the entities that they mean, both ways: for words, and for the sub-words of a tokenizer.
#
# A sub-word belongs to an entity if it overlaps it. The first of an entity's sub-words is tagged B, the others I, so
# that nothing is lost if an entity begins inside a word.

_TAG = re.compile(r"([BI])-(.+)")


def spans_of_words(
    words: Sequence[str], tags: Sequence[str], between: str, names: Mapping[str, str]
) -> tuple[Span, ...]:
    """The entities of words that stand one behind the other with `between` between them.

    Raises ExampleError where a tag is none, or where I follows nothing that it could go on.
    """
    spans: list[Span] = []
    start, before = 0, "O"
    for word, tag in zip(words, tags, strict=True):
        end = start + len(word)
        if tag != "O":
            match = _TAG.fullmatch(tag)
            if match is None:
                raise ExampleError("bad_tag", f"{word!r} is tagged {tag!r}, which is not O, B-… or I-…")
            prefix, entity = match[1], names.get(match[2], match[2])
            if prefix == "B":
                spans.append(Span(start, end, entity))
            elif before == "O" or before[2:] != tag[2:]:
                raise ExampleError("bad_tag", f"{word!r} is tagged {tag} after {before}: an entity begins with B")
            else:
                spans[-1] = Span(spans[-1].start, end, entity)
        start, before = end + len(between), tag
    return tuple(spans)


def tags_of_tokens(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[str]:
    """The tag of each token by the characters that it covers. `spans` in order and without overlap."""
    tags, begun, number = [], -1, 0
    for start, end in offsets:
        while number < len(spans) and spans[number].end <= start:
            number += 1
        if number == len(spans) or spans[number].start >= end or start == end:
            tags.append("O")
        else:
            tags.append(f"{'I' if begun == number else 'B'}-{spans[number].label}")
            begun = number
    return tags


def spans_of_tokens(offsets: Sequence[tuple[int, int]], tags: Sequence[str]) -> list[Span]:
    """The entities that a model's tags mean. I that follows another kind, or nothing, begins one, as for CoNLL."""
    spans: list[Span] = []
    before = "O"
    for (start, end), tag in zip(offsets, tags, strict=True):
        if tag != "O":
            if tag[0] == "I" and before[2:] == tag[2:]:
                spans[-1] = Span(spans[-1].start, end, tag[2:])
            else:
                spans.append(Span(start, end, tag[2:]))
        before = tag
    return spans
