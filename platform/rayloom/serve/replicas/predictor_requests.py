"""The API of predictors: their paths, and the schemas of their requests and answers.

`input` is one text or a list of texts; if a text needs or can have further fields, it is an object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

TEXT_TASK = "text"
"""The task type of a language model, which has no task."""


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class EntityMark(_Schema):
    """An entity in a text, by characters."""

    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]


class Text(_Schema):
    """A text alone."""

    text: str


class Classified(_Schema):
    """A text, with what some tasks need in addition."""

    text: str
    pair: str | None = None
    """The second text, for models of text pairs."""
    head: EntityMark | None = None
    tail: EntityMark | None = None
    """The second entity, for models of relations, as `head` is the first."""

    @model_validator(mode="after")
    def _marks_are_in_the_text(self) -> Self:
        if any(mark is not None and not mark.start < mark.end <= len(self.text) for mark in (self.head, self.tail)):
            raise ValueError("head and tail must be ranges of characters inside the text")
        return self


class Question(_Schema):
    """A question, and the text that may have its answer."""

    question: str
    text: str


class _Request(_Schema):
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


class ConversationMessage(_Schema):
    role: str
    content: str


class JudgedConversation(_Schema):
    """A conversation whose last message is the answer in question."""

    messages: Annotated[list[ConversationMessage], Field(min_length=1)]


class ScoreRequest(_Request):
    """Conversations, for each of which the last answer is given a number."""

    input: JudgedConversation | list[JudgedConversation]


class Label(_Schema):
    """The classes of one text."""

    index: int
    labels: list[str]
    """The most likely label; if a text can have several, all with a probability over 0.5."""
    probabilities: dict[str, float]
    """Empty where a model was asked to write the label."""


class Entity(_Schema):
    """A part of a text, by characters, and what it is."""

    label: str
    start: int
    end: int
    text: str


class Tags(_Schema):
    """The entities of one text."""

    index: int
    entities: list[Entity]


class Answer(_Schema):
    """The part of a text that answers a question."""

    index: int
    answer: str | None
    """None if the text has no answer."""
    start: int | None = None
    end: int | None = None
    probability: float
    """Probability that the text has an answer and that it is this one."""


class Written(_Schema):
    """A text that was written for a text."""

    index: int
    text: str


class AnswerScore(_Schema):
    """The number of one answer; larger is better, and only differences mean something."""

    index: int
    score: float
    steps: list[float] | None = None
    """Of a process reward: the probability that each step is right; the score is the lowest."""


@dataclass(frozen=True)
class PredictorEndpoint:
    """One path of the API, with its schemas."""

    path: str
    summary: str
    request: type[_Request]
    item: type[_Schema]
    example: Any
    """An example of `input`."""


CLASSIFY = PredictorEndpoint(
    "/v1/classify",
    "Classes of texts, or of pairs of texts",
    ClassifyRequest,
    Label,
    ["What a film!", "Two dull hours."],
)
TAG = PredictorEndpoint("/v1/tag", "Entities in texts", TagRequest, Tags, "Ada met Grace in Paris.")
ANSWER = PredictorEndpoint(
    "/v1/answer",
    "The part of a text that answers a question",
    AnswerRequest,
    Answer,
    {"question": "Who went?", "text": "Ada went to Paris."},
)
GENERATE = PredictorEndpoint("/v1/generate", "A text for each text", GenerateRequest, Written, "Ada went to Paris.")
SCORE = PredictorEndpoint(
    "/v1/score",
    "A number for the last answer of each conversation, by a reward model",
    ScoreRequest,
    AnswerScore,
    {"messages": [{"role": "user", "content": "Who went?"}, {"role": "assistant", "content": "Ada."}]},
)
ENDPOINTS = {endpoint.path: endpoint for endpoint in (CLASSIFY, TAG, ANSWER, GENERATE, SCORE)}
_BY_TASK = {
    "text_classification": CLASSIFY,
    "relation_extraction": CLASSIFY,
    "token_classification": TAG,
    "question_answering": ANSWER,
    "sequence_to_sequence": GENERATE,
    "reward": SCORE,
    TEXT_TASK: GENERATE,
}


def endpoint_of(task: str) -> PredictorEndpoint:
    """The endpoint of models for this type of task."""
    return _BY_TASK[task]


def example_input(task: str) -> Any:
    """An `input` that every model for this type of task can answer."""
    if task == "relation_extraction":
        return {"text": "Ada met Grace", "head": {"start": 0, "end": 3}, "tail": {"start": 8, "end": 13}}
    return endpoint_of(task).example


class BadRequestError(ValueError):
    """A request that does not match its schema; `param` names the field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def rows_of(endpoint: PredictorEndpoint, body: bytes) -> list[dict[str, Any]]:
    """The texts of a request, as a responder takes them. Raises BadRequestError."""
    try:
        request: Any = endpoint.request.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        # `input` can have several forms: the error that is deepest in the request belongs to the intended one.
        best = max(errors, key=lambda one: (len(_field_path(one["loc"])), one["type"] == "value_error"))
        path, message = _field_path(best["loc"]), best["msg"].removeprefix("Value error, ")
        param = ".".join(path)
        raise BadRequestError(f"{param or 'the body'}: {message}", param) from None
    given = request.input if isinstance(request.input, list) else [request.input]
    return [_row(one) for one in given]


def _field_path(location: Sequence[int | str]) -> list[str]:
    """A field's path, without the parts that pydantic adds for the form of `input` that it tried."""
    return [
        str(part) for part in location if isinstance(part, int) or (part.islower() and part[:4] not in ("str", "list"))
    ]


def _row(one: Any) -> dict[str, Any]:
    if isinstance(one, str):
        return {"text": one}
    if isinstance(one, Question):
        return {"text": one.text, "pair": one.question}
    return {name: value for name, value in one.model_dump().items() if value is not None}


def response_body(endpoint: PredictorEndpoint, model: str, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The body of an answer, from the responder's answer for each row."""
    data = [{"index": index, **_ITEM_FIELDS[endpoint.path](one)} for index, one in enumerate(answers)]
    return {"object": "list", "model": model, "data": data}


def _classes(answers: Mapping[str, Any]) -> dict[str, Any]:
    return {"labels": answers["labels"], "probabilities": answers.get("probabilities", {})}


def _entities(answers: Mapping[str, Any]) -> dict[str, Any]:
    return {"entities": answers.get("spans", [])}


def _answer(answers: Mapping[str, Any]) -> dict[str, Any]:
    probability = answers["probabilities"]["answer"]
    span = next(iter(answers.get("spans", ())), None)
    if span is None:
        return {"answer": None, "probability": probability}
    return {"answer": span["text"], "start": span["start"], "end": span["end"], "probability": probability}


def _text(answers: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": answers["answer"] if "answer" in answers else "".join(answers["labels"])}


def _score(answers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: answers[name] for name in ("score", "steps") if name in answers}


_ITEM_FIELDS = {
    CLASSIFY.path: _classes,
    TAG.path: _entities,
    ANSWER.path: _answer,
    GENERATE.path: _text,
    SCORE.path: _score,
}
