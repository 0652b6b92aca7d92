"""Rows as prompts: the fields of a template filled in, demonstrations before it, and the answers that these have."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from rayloom.specs.prompting import ANSWER, Generated, MultipleChoice, Prompt
from rayloom.specs.training.tasks import QuestionAnswering, RelationExtraction, TextClassification, TokenClassification
from rayloom.text.labelled.examples import Example, ExampleError, check_example

NOTHING = "none"
"""The answer of a demonstration without labels or entities."""
UNANSWERABLE = "unanswerable"
"""The answer of a demonstration whose question has none in the text."""


@dataclass(frozen=True)
class PromptText:
    """A prompt up to the answer, and what the template has behind it (of a cloze)."""

    before: str
    after: str = ""


class PromptRenderer:
    """Renders rows by one prompt of a job."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self._pieces = [(text, name) for text, name, _, _ in string.Formatter().parse(prompt.template)]

    def check(self, example: Example) -> None:
        """Raises ExampleError for a row that the task or the template cannot use."""
        task = self.prompt.task
        if isinstance(task, MultipleChoice):
            if not example.choices:
                raise ExampleError("missing_column", "has no choices: read it with {type: choices}")
            return
        check_example(task, example)
        if "pair" in {name for _, name in self._pieces} and example.pair is None:
            raise ExampleError("missing_column", "has no second text for {pair}: name its column in `read`")

    def text(self, example: Example, shown: Sequence[Example] = (), content_free: str | None = None) -> PromptText:
        """The whole prompt of a row. `shown`: demonstrations. `content_free`: what the row's fields say instead."""
        row = self._row(example, content_free)
        parts = [self.prompt.instruction] if self.prompt.instruction else []
        for one in shown:
            own = self._row(one)
            parts.append(own.before + self.answer(one) + own.after)
        return PromptText(self.prompt.separator.join([*parts, row.before]), row.after)

    def messages(
        self, example: Example, shown: Sequence[Example] = (), content_free: str | None = None
    ) -> list[dict[str, str]]:
        """The same as a conversation that waits for the assistant's answer."""
        instruction = self.prompt.instruction
        messages = [{"role": "system", "content": instruction}] if instruction else []
        for one in shown:
            messages.append({"role": "user", "content": self._row(one).before.rstrip()})
            messages.append({"role": "assistant", "content": self.answer(one)})
        return [*messages, {"role": "user", "content": self._row(example, content_free).before.rstrip()}]

    def answer(self, example: Example) -> str:
        """What is said for a solved row."""
        task, prompt = self.prompt.task, self.prompt
        if isinstance(task, MultipleChoice):
            number = example.choices.index(example.labels[0])
            return letter(number) if task.answers == "letters" else example.labels[0]
        if isinstance(task, TokenClassification):
            said = (f"{prompt.words_of(s.label)[0]}: {example.text[s.start : s.end]}" for s in example.spans)
            return "; ".join(said) or NOTHING
        if isinstance(task, QuestionAnswering):
            spans = example.spans
            return example.text[spans[0].start : spans[0].end] if spans else UNANSWERABLE
        if isinstance(task, TextClassification | RelationExtraction):
            return ", ".join(prompt.words_of(label)[0] for label in example.labels) or NOTHING
        return example.labels[0]

    def _row(self, example: Example, content_free: str | None = None) -> PromptText:
        sides, side = ["", ""], 0
        for text, name in self._pieces:
            sides[side] += text
            if name == ANSWER:
                side = 1
            elif name is not None:
                sides[side] += self._field(name, example, content_free)
        return PromptText(sides[0], sides[1])

    def _field(self, name: str, example: Example, content_free: str | None) -> str:
        if name == "labels":
            return ", ".join(self.prompt.words_of(label)[0] for label in self.prompt.labels)
        if name == "choices":
            return "\n".join(f"{letter(number)}. {choice}" for number, choice in enumerate(example.choices))
        if content_free is not None:
            return content_free
        value = example.text
        if name in ("head", "tail"):
            value = next((value[s.start : s.end] for s in example.spans if s.label == name), "")
        elif name == "pair" or (name == "question" and isinstance(self.prompt.task, QuestionAnswering)):
            value = example.pair or ""
        return value[: self.prompt.max_field_characters]


def letter(number: int) -> str:
    """A for 0."""
    return string.ascii_uppercase[number] if number < 26 else str(number)


def stopped(text: str, scoring: Generated) -> str:
    """What counts of a generated text: up to the first of the texts at which it stops, and there what the pattern
    finds."""
    import re

    ends = [place for place in (text.find(stop) for stop in scoring.stop) if place >= 0]
    text = text[: min(ends, default=len(text))]
    if scoring.pattern is None:
        return text.strip()
    found = list(re.finditer(scoring.pattern, text))
    return ((found[-1][1] if found[-1].re.groups else found[-1][0]) or "").strip() if found else ""
