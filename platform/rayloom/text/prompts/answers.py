"""What a generated answer says: labels, entities, a span of the text, or a choice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rayloom.specs.prompting import MultipleChoice, Prompt
from rayloom.specs.training.tasks import QuestionAnswering, TextClassification, TokenClassification
from rayloom.text.labelled.decoding import Prediction
from rayloom.text.labelled.examples import Example, Span
from rayloom.text.prompts.template import NOTHING, UNANSWERABLE, letter

_WITHOUT_SPACES = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Characters of languages that put no spaces between words."""


def parsed(prompt: Prompt, example: Example, answer: str) -> Prediction | None:
    """The prediction for a row of which the model said `answer`; None where that says nothing of the kind."""
    task = prompt.task
    if isinstance(task, MultipleChoice):
        names = [letter(n) if task.answers == "letters" else choice for n, choice in enumerate(example.choices)]
        number = first_said(answer, [(name,) for name in names], keep_case=task.answers == "letters")
        return None if number is None else Prediction((example.choices[number],))
    if isinstance(task, TokenClassification):
        return _entities(prompt, example.text, answer)
    if isinstance(task, QuestionAnswering):
        return _span(example.text, answer)
    if not prompt.labels:
        return Prediction((answer,)) if answer else None
    words = [prompt.words_of(label) for label in prompt.labels]
    if isinstance(task, TextClassification) and task.multiple:
        labels = tuple(
            label for label, own in zip(prompt.labels, words, strict=True) if _place(answer, own) is not None
        )
        return Prediction(labels) if labels or answer.casefold().startswith(NOTHING) else None
    number = first_said(answer, words)
    return None if number is None else Prediction((prompt.labels[number],))


def first_said(answer: str, words: Sequence[Sequence[str]], *, keep_case: bool = False) -> int | None:
    """Which of several lists of words has the one that stands first in the answer; of two there, the longer one."""
    places = [(place, n) for n, own in enumerate(words) if (place := _place(answer, own, keep_case)) is not None]
    return min(places)[1] if places else None


def _place(answer: str, words: Iterable[str], keep_case: bool = False) -> tuple[int, int] | None:
    """Where the first of the words begins, and minus its length."""
    found = (re.search(_as_word(word), answer, 0 if keep_case else re.IGNORECASE) for word in words)
    return min(((match.start(), -len(match[0])) for match in found if match), default=None)


def _as_word(word: str) -> str:
    word = word.strip()
    escaped = re.escape(word)
    return escaped if _WITHOUT_SPACES.search(word) else rf"(?<!\w){escaped}(?!\w)"


def _entities(prompt: Prompt, text: str, answer: str) -> Prediction | None:
    kinds = {word.casefold(): label for label in prompt.labels for word in prompt.words_of(label)}
    spans: list[Span] = []
    for item in re.split(r"[;\n]", answer):
        kind, colon, words = item.partition(":")
        label, words = kinds.get(kind.strip().casefold()), words.strip()
        if colon and label is not None and words:
            places = (match.span() for match in re.finditer(re.escape(words), text, re.IGNORECASE))
            free = (p for p in places if all(p[1] <= span.start or span.end <= p[0] for span in spans))
            spans += [Span(*place, label) for place in [next(free, None)] if place is not None]
    if not spans and not answer.casefold().startswith(NOTHING):
        return None
    return Prediction(spans=tuple(sorted(spans, key=lambda span: span.start)))


def _span(text: str, answer: str) -> Prediction | None:
    if not answer:
        return None
    if answer.casefold().startswith(UNANSWERABLE):
        return Prediction()
    match = re.search(re.escape(answer), text, re.IGNORECASE)
    return Prediction(spans=(Span(*match.span(), "answer"),)) if match else Prediction((answer,))
