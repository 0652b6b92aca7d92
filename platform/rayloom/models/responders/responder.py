"""Answers rows with a model: labels from a task model, text from others. A bad row does not affect other rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from rayloom.errors import InputError, RayloomError
from rayloom.models.context_length import context_tokens_of
from rayloom.models.responders.answer_scorer import AnswerScorer
from rayloom.models.responders.prompted_rows import PromptPredictor
from rayloom.models.responders.subject import Subject
from rayloom.score.answers import greedy_answers, written_texts
from rayloom.score.task_batches import target_of
from rayloom.score.task_loss import logits_of_rows
from rayloom.specs.text_generation import Generation
from rayloom.specs.training.prompted import classes_of
from rayloom.specs.training.tasks import QuestionAnswering, RelationExtraction, RewardScoring, SequenceToSequence, Task
from rayloom.text.conversations.render import Renderer
from rayloom.text.labelled.decoding import Prediction, decoded
from rayloom.text.labelled.encoding import TaskEncoder
from rayloom.text.labelled.examples import Example, ExampleError, Span


class Responder(Protocol):
    """Answers rows with one model."""

    def check(self, row: Mapping[str, Any]) -> None:
        """Raises ExampleError if the row lacks a value that the model needs, or is too long for it."""

    def respond(self, rows: Sequence[Mapping[str, Any]], micro_batch_sequences: int) -> list[dict[str, Any]]:
        """The answer to each row. Rows have `text` and, if the task needs them, `pair`, or `head` and `tail`."""


def responder_for(subject: Subject, generation: Generation) -> Responder:
    """The responder for a model: by its task, by the prompt that it was trained on, or with text."""
    if subject.task is not None and isinstance(subject.task[0], RewardScoring):
        return AnswerScorer.of(subject)
    if subject.task is not None:
        return TaskResponder(Predictor.of(subject))
    if subject.prompt is not None:
        return PromptPredictor.of(subject).responder
    return TextResponder(subject, generation)


@dataclass(frozen=True)
class TaskResponder:
    """Answers with labels, entities or a span of the text."""

    predictor: Predictor

    def check(self, row: Mapping[str, Any]) -> None:
        _check_text(row)
        wanted = needs(self.predictor.task)
        is_relation = isinstance(self.predictor.task, RelationExtraction)
        has_it = all(isinstance(row.get(key), Mapping) for key in ("head", "tail")) if is_relation else row.get("pair")
        if wanted and not has_it:
            raise ExampleError("missing_column", f"lacks {wanted}")

    def respond(self, rows: Sequence[Mapping[str, Any]], micro_batch_sequences: int) -> list[dict[str, Any]]:
        examples = [Example(row["text"], row.get("pair"), spans=_marked(row)) for row in rows]
        predictions = self.predictor.predict(examples, micro_batch_sequences)
        return [prediction.as_json(row["text"]) for prediction, row in zip(predictions, rows, strict=True)]


@dataclass(frozen=True)
class TextResponder:
    """Answers with the greedy completion of the text as a user message."""

    subject: Subject
    generation: Generation

    @functools.cached_property
    def renderer(self) -> Renderer:
        """The renderer of prompts. Raises InputError if there is no chat template, or it does not use the settings."""
        return self.subject.renderer.with_kwargs(self.generation.chat_template_kwargs)

    def check(self, row: Mapping[str, Any]) -> None:
        _check_text(row)
        most, longest = context_tokens_of(self.subject.base), self.generation.max_new_tokens
        num_tokens = len(self.prompt(row))
        if most is not None and num_tokens + longest > most:
            room = f"there is room for {most - longest} before the answer"
            raise ExampleError("too_long", f"the prompt has {num_tokens} tokens, and {room}")

    def respond(self, rows: Sequence[Mapping[str, Any]], micro_batch_sequences: int) -> list[dict[str, Any]]:
        stop_tokens, longest = self.renderer.stop_tokens, self.generation.max_new_tokens
        prompts = [self.prompt(row) for row in rows]
        answers = greedy_answers(self.subject.model, prompts, longest, stop_tokens, micro_batch_sequences)
        return [self.answer(tokens) for tokens in answers]

    def prompt(self, row: Mapping[str, Any]) -> list[int]:
        """The token ids of the row's prompt, as the server would compute them."""
        text = self.generation.system
        system = [] if text is None else [{"role": "system", "content": text}]
        return self.renderer.prompt([*system, {"role": "user", "content": row["text"]}])

    def answer(self, tokens: Sequence[int]) -> dict[str, Any]:
        """The answer as text and its number of tokens, up to the first stop token."""
        renderer = self.renderer
        stop = next((position for position, token in enumerate(tokens) if token in renderer.stop_tokens), len(tokens))
        text = str(renderer.tokenizer.decode(list(tokens[:stop]), skip_special_tokens=True))
        return {"answer": text, "num_tokens": stop}


def respond_to_each(
    responder: Responder, rows: Sequence[Mapping[str, Any]], micro_batch_sequences: int
) -> list[dict[str, Any]]:
    """A mapping for each row: its answer, or `failed` with the reason.

    If a batch fails, its rows are answered one by one, so that only the rows that cause the error fail.
    """
    answers: list[dict[str, Any]] = [{} for _ in rows]
    good = []
    for number, row in enumerate(rows):
        try:
            responder.check(row)
            good.append(number)
        except ExampleError as error:
            answers[number] = {"failed": f"{error.problem}: {error}"}
    for first in range(0, len(good), micro_batch_sequences):
        numbers = good[first : first + micro_batch_sequences]
        answered = _answered(responder, [rows[number] for number in numbers], micro_batch_sequences)
        for number, answer in zip(numbers, answered, strict=True):
            answers[number] = answer
    return answers


def _answered(
    responder: Responder, rows: Sequence[Mapping[str, Any]], micro_batch_sequences: int
) -> list[dict[str, Any]]:
    try:
        return responder.respond(rows, micro_batch_sequences)
    except (RayloomError, ValueError, RuntimeError, IndexError, KeyError, TypeError) as error:
        if len(rows) == 1:
            first_line = (str(error).splitlines() or [""])[0]
            return [{"failed": f"{type(error).__name__}: {first_line}"}]
        return [_answered(responder, [row], micro_batch_sequences)[0] for row in rows]


def _check_text(row: Mapping[str, Any]) -> None:
    text = row.get("text")
    if "unreadable" in row:
        raise ExampleError("unreadable", str(row["unreadable"]))
    if text is None:
        raise ExampleError("missing_column", "has no text")
    if not isinstance(text, str):
        raise ExampleError("not_text", f"the text is not text but {type(text).__name__}")
    if not text.strip():
        raise ExampleError("empty_text", "the text is empty")


def _marked(row: Mapping[str, Any]) -> tuple[Span, ...]:
    marks = ((name, row.get(name)) for name in ("head", "tail"))
    return tuple(Span(int(m["start"]), int(m["end"]), name) for name, m in marks if isinstance(m, Mapping))


# A task model with its tokenizer, for evaluation and prediction.


@dataclass(frozen=True)
class Predictor:
    """Predicts labels, entities or answers for texts."""

    task: Task
    encoder: TaskEncoder
    model: nn.Module

    @classmethod
    def of(cls, subject: Subject) -> Predictor:
        """The predictor of a subject. Raises InputError if the model was not trained for a task."""
        if subject.task is None:
            what = f"{subject.artifact_id} was not trained for a task"
            raise InputError(what, fix="Name the result of a `train` job with a task.")
        task, length = subject.task
        return cls(task, TaskEncoder.of_folder(task, subject.tokenizer_folder, length), subject.task_model)

    def predict(
        self, examples: Sequence[Example], micro_batch_sequences: int, advance: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """One prediction for each text, in order."""
        if isinstance(self.task, SequenceToSequence):
            texts = self._written(examples, self.task, micro_batch_sequences)
            advance(len(examples))
            return [Prediction((text,)) for text in texts]
        rows = self.encoder.rows(examples)
        padding = int(self.encoder.tokenizer.pad_token_id or 0)
        flat = [row for of_one in rows for row in of_one]
        logits = iter(logits_of_rows(self.model, flat, target_of(self.task), micro_batch_sequences, padding))
        predictions = [decoded(self.task, of_one, [next(logits) for _ in of_one]) for of_one in rows]
        advance(len(examples))
        return predictions

    def _written(self, examples: Sequence[Example], task: SequenceToSequence, micro_batch_sequences: int) -> list[str]:
        tokenizer = self.encoder.tokenizer
        rows = [row.tokens.tolist() for (row,) in self.encoder.rows(examples)]
        answers = written_texts(self.model, rows, task.max_target_tokens, micro_batch_sequences)
        return [str(tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in answers]


def task_of(subject: Subject) -> Task | None:
    """What a model was trained to say about texts, with a head or on a prompt; None if it writes text."""
    if subject.prompt is not None:
        return classes_of(subject.prompt[0])
    return None if subject.task is None else subject.task[0]


def predictor_of(subject: Subject) -> Predictor | PromptPredictor:
    """What predicts labels with a model: by the prompt that it was trained on, or by its task."""
    return Predictor.of(subject) if subject.prompt is None else PromptPredictor.of(subject)


def needs(task: Task) -> str:
    """What a prediction needs besides the text, in words for the user; empty if the text is enough."""
    if isinstance(task, QuestionAnswering):
        return "a question"
    return "two marked entities" if isinstance(task, RelationExtraction) else ""
