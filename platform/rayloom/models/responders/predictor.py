"""A task model with its tokenizer: from texts to labels, entities or answers, in evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from rayloom.errors import InputError
from rayloom.models.responders.subject import Subject
from rayloom.score.answers import written_texts
from rayloom.score.task_batches import target_of
from rayloom.score.task_predictions import logits_of_rows
from rayloom.specs.training.tasks import QuestionAnswering, RelationExtraction, SequenceToSequence, Task
from rayloom.text.labelled.decoding import Prediction, decoded
from rayloom.text.labelled.encoding import TaskEncoder
from rayloom.text.labelled.examples import Example


@dataclass(frozen=True)
class Predictor:
    """Predicts for one task with one model."""

    task: Task
    encoder: TaskEncoder
    model: nn.Module

    @classmethod
    def of(cls, subject: Subject) -> Predictor:
        """Raises InputError where the model was not trained for a task."""
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
        found = [decoded(self.task, of_one, [next(logits) for _ in of_one]) for of_one in rows]
        advance(len(examples))
        return found

    def _written(self, examples: Sequence[Example], task: SequenceToSequence, micro_batch_sequences: int) -> list[str]:
        tokenizer = self.encoder.tokenizer
        rows = [row.tokens.tolist() for (row,) in self.encoder.rows(examples)]
        answers = written_texts(self.model, rows, task.max_target_tokens, micro_batch_sequences)
        return [str(tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in answers]


def needs(task: Task) -> str:
    """What beside a text a prediction needs, in words; empty where the text is enough."""
    if isinstance(task, QuestionAnswering):
        return "a question"
    return "two marked entities" if isinstance(task, RelationExtraction) else ""
