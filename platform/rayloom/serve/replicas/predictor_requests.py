"""What predictors are asked and what they answer: the paths, the forms of requests, and the words of answers.

`input` is one text or a list; wherever more than a text is needed, or may be given, it is an object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

TEXT_TASK = "text"
"""Stands for the task of a model that was trained for none and goes on with text."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Mark(_Form):
    """An entity in a text, by characters."""

    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]


class Text(_Form):
    """A text alone."""

    text: str


class Classified(_Form):
    """A text, with what some tasks need beside it."""

    text: str
    pair: str | None = None
    """The second text, of a model for pairs."""
    head: Mark | None = None
    tail: Mark | None = None
    """The two entities, of a model for relations."""

    @model_validator(mode="after")
    def _marks_are_in_the_text(self) -> Self:
        if any(mark is not None and not mark.start < mark.end <= len(self.text) for mark in (self.head, self.tail)):
            raise ValueError("head and tail must be places in the text")
        return self


class Question(_Form):
    """A question, and the text that may have its answer."""

    question: str
    text: str


class _Request(_Form):
    model: str
    user: str | None = None
    """Ignored; OpenAI's clients may send it."""


class ClassifyRequest(_Request):
    """Texts whose classes are asked for."""

    input: str | Classified | list[str | Classified]


class TagRequest(_Request):
    """Texts whose entities are asked for."""

    input: str | Text | list[str | Text]


class AnswerRequest(_Request):
    """Questions about texts."""

    input: Question | list[Question]


class GenerateRequest(_Request):
    """Texts, for each of which the model writes another."""

    input: str | Text | list[str | Text]


class Label(_Form):
    """The classes of one text."""

    index: int
    labels: list[str]
    """The likeliest; of a model with several classes a text, all that are likelier than not."""
    probabilities: dict[str, float]


class Entity(_Form):
    """A part of a text, by characters, and what it is."""

    label: str
    start: int
    end: int
    text: str


class Tags(_Form):
    """The entities of one text."""

    index: int
    entities: list[Entity]


class Answer(_Form):
    """The part of a text that answers a question."""

    index: int
    answer: str | None
    """None where the text has no answer."""
    start: int | None = None
    end: int | None = None
    probability: float
    """That there is an answer, and that it is this one."""


class Written(_Form):
    """A text for a text."""

    index: int
    text: str


@dataclass(frozen=True)
class Endpoint:
    """One path."""

    path: str
    summary: str
    request: type[_Request]
    item: type[_Form]
    example: Any
    """An `input`."""


CLASSIFY = Endpoint(
    "/v1/classify",
    "Classes of texts, or of pairs of texts",
    ClassifyRequest,
    Label,
    ["What a film!", "Two dull hours."],
)
TAG = Endpoint("/v1/tag", "Entities in texts", TagRequest, Tags, "Ada met Grace in Paris.")
ANSWER = Endpoint(
    "/v1/answer",
    "The part of a text that answers a question",
    AnswerRequest,
    Answer,
    {"question": "Who went?", "text": "Ada went to Paris."},
)
GENERATE = Endpoint("/v1/generate", "A text for each text", GenerateRequest, Written, "Ada went to Paris.")
ENDPOINTS = {endpoint.path: endpoint for endpoint in (CLASSIFY, TAG, ANSWER, GENERATE)}
_BY_TASK = {
    "text_classification": CLASSIFY,
    "relation_extraction": CLASSIFY,
    "token_classification": TAG,
    "question_answering": ANSWER,
    "sequence_to_sequence": GENERATE,
    TEXT_TASK: GENERATE,
}


def endpoint_of(task: str) -> Endpoint:
    """Where a model that was trained for this type of task answers."""
    return _BY_TASK[task]


def first_input(task: str) -> Any:
    """An `input` that every model for this type of task can say something about."""
    if task == "relation_extraction":
        return {"text": "Ada met Grace", "head": {"start": 0, "end": 3}, "tail": {"start": 8, "end": 13}}
    return endpoint_of(task).example


class BadRequestError(ValueError):
    """A request that has not the form; `param` says where."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def rows_of(endpoint: Endpoint, body: bytes) -> list[dict[str, Any]]:
    """The texts asked about, as a responder takes them. Raises BadRequestError."""
    try:
        asked: Any = endpoint.request.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        # Of the forms that `input` may have, the one that fits furthest is the one that was meant.
        best = max(errors, key=lambda one: (len(_place(one["loc"])), one["type"] == "value_error"))
        place, said = _place(best["loc"]), best["msg"].removeprefix("Value error, ")
        param = ".".join(place)
        raise BadRequestError(f"{param or 'the body'}: {said}", param) from None
    given = asked.input if isinstance(asked.input, list) else [asked.input]
    return [_row(one) for one in given]


def _place(location: Sequence[int | str]) -> list[str]:
    """A field's path, without what only says which form of `input` was tried."""
    return [
        str(part) for part in location if isinstance(part, int) or (part.islower() and part[:4] not in ("str", "list"))
    ]


def _row(one: Any) -> dict[str, Any]:
    if isinstance(one, str):
        return {"text": one}
    if isinstance(one, Question):
        return {"text": one.text, "pair": one.question}
    return {name: value for name, value in one.model_dump().items() if value is not None}


def answered(endpoint: Endpoint, model: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The body of an answer, from what a responder found for each row."""
    data = [{"index": index, **_WORDS[endpoint.path](one)} for index, one in enumerate(found)]
    return {"object": "list", "model": model, "data": data}


def _classes(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"labels": found["labels"], "probabilities": found["probabilities"]}


def _entities(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"entities": found.get("spans", [])}


def _answer(found: Mapping[str, Any]) -> dict[str, Any]:
    probability = found["probabilities"]["answer"]
    span = next(iter(found.get("spans", ())), None)
    if span is None:
        return {"answer": None, "probability": probability}
    return {"answer": span["text"], "start": span["start"], "end": span["end"], "probability": probability}


def _text(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": found["answer"] if "answer" in found else "".join(found["labels"])}


_WORDS = {CLASSIFY.path: _classes, TAG.path: _entities, ANSWER.path: _answer, GENERATE.path: _text}
