"""Rows of labelled data as a prompt uses them, and what answers rows by a prompt: a job's, or a model's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError
from rayloom.models.responders.prompt_tokens import ROWS_AT_ONCE, PromptTokens
from rayloom.models.responders.prompted import PromptedModel
from rayloom.models.responders.subject import Subject
from rayloom.reading.sources import row_files
from rayloom.specs.prompting import MultipleChoice, Prompt
from rayloom.specs.training.labelled_data import LabelledData
from rayloom.specs.training.prompted import SHOWN_FILE, classes_of
from rayloom.specs.training.tasks import QuestionAnswering, RelationExtraction, TextClassification
from rayloom.text.labelled import examples as stored
from rayloom.text.labelled.dataset import LabelledCounts, read_examples
from rayloom.text.labelled.decoding import Prediction
from rayloom.text.labelled.examples import Example, ExampleError, Span
from rayloom.text.prompts.demonstrations import Pool
from rayloom.text.prompts.template import PromptRenderer


def labelled_examples(
    prompt: Prompt, data: LabelledData, artifacts: Mapping[str, Artifact], field: str, seed: int = 0
) -> list[Example]:
    """Every usable row. `artifacts` by the path of their reference, which begins at `field` with the source's number.

    Raises InputError with every row that the prompt cannot use, or where there is none.
    """
    files = {}
    for number, source in enumerate(data.sources):
        files[f"data.sources.{number}.dataset"] = row_files(source, artifacts.get(f"{field}.{number}.dataset"))
    check = PromptRenderer(prompt).check
    examples = read_examples(data, files, check, seed, LabelledCounts(), Counter())
    if not examples:
        raise InputError("There is no row for the prompt", where=field, fix="Correct `files` or `read`.")
    return examples


def rows_to_show(prompt: Prompt, artifacts: Mapping[str, Artifact], field: str = "prompt") -> Pool:
    """The rows of the prompt's own sources, which demonstrations are chosen from. Raises InputError if they are few."""
    how = prompt.demonstrations
    if how is None:
        return Pool()
    data = LabelledData(type="labelled", sources=how.sources)
    pool = labelled_examples(prompt, data, artifacts, f"{field}.demonstrations.sources")
    if len(pool) < how.num_rows:
        what = f"There are {len(pool)} rows to show, and demonstrations.num_rows is {how.num_rows}"
        raise InputError(what, where=field, fix="Show fewer, or add rows.")
    return Pool(tuple(pool))


@dataclass(frozen=True)
class PromptedResponder:
    """Answers rows by a prompt, with the fields that a model trained for the task would give."""

    model: PromptedModel
    pool: Pool = field(default_factory=Pool)

    def check(self, row: Mapping[str, Any]) -> None:
        example = self._example(row)
        try:
            self.model.check_lengths([example], self._shown([example]))
        except InputError as error:
            raise ExampleError("too_long", error.what) from error

    def respond(self, rows: Sequence[Mapping[str, Any]], micro_batch_sequences: int) -> list[dict[str, Any]]:
        examples = [self._example(row) for row in rows]
        answers = self.model.answers(examples, self._shown(examples), micro_batch_sequences)
        return [
            answer.prediction.as_json(example.text) | ({} if answer.said is None else {"said": answer.said})
            for answer, example in zip(answers, examples, strict=True)
        ]

    def _shown(self, examples: Sequence[Example]) -> list[list[Example]]:
        return self.model.demonstrations(examples, self.pool, 0, 0, 1)

    def _example(self, row: Mapping[str, Any]) -> Example:
        """The row as a task's example. Raises ExampleError if it lacks what the prompt shows."""
        if "unreadable" in row:
            raise ExampleError("unreadable", str(row["unreadable"]))
        text, pair, prompt = row.get("text"), row.get("pair"), self.model.prompt
        if not isinstance(text, str) or not text.strip():
            raise ExampleError("missing_column" if text is None else "empty_text", "has no text")
        wants_pair = isinstance(prompt.task, QuestionAnswering) or "{pair}" in prompt.template
        if wants_pair and not isinstance(pair, str):
            raise ExampleError("missing_column", "has no second text")
        marks = {name: row[name] for name in ("head", "tail") if isinstance(row.get(name), Mapping)}
        if isinstance(prompt.task, RelationExtraction) and len(marks) < 2:
            raise ExampleError("missing_column", "has no marked head and tail")
        spans = tuple(Span(int(mark["start"]), int(mark["end"]), name) for name, mark in marks.items())
        choices = row.get("choices")
        if isinstance(prompt.task, MultipleChoice) and not choices:
            raise ExampleError("missing_column", "has no choices")
        return Example(text, pair if wants_pair else None, spans=spans, choices=tuple(choices or ()))


# A model that was trained on a prompt, asked by it.


@dataclass(frozen=True)
class PromptEncoder:
    """Checks and measures rows for one prompt, as a TaskEncoder does for a task."""

    tokens: PromptTokens
    max_tokens: int
    reads_windows: bool = False

    @property
    def task(self) -> TextClassification | RelationExtraction:
        return classes_of(self.tokens.prompt)

    def check(self, example: Example) -> None:
        """Raises ExampleError for a row that the task or the template cannot use."""
        self.tokens.renderer.check(example)

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """Tokens of each row's prompt without demonstrations, with the longest label word."""
        parts = (examples[first : first + ROWS_AT_ONCE] for first in range(0, len(examples), ROWS_AT_ONCE))
        prompts = (zip(part, self.tokens.prompts(part, [()] * len(part)), strict=True) for part in parts)
        return [len(ids) + self.tokens.answer_tokens(example) for rows in prompts for example, ids in rows]

    def cut(self, examples: Sequence[Example]) -> list[str]:
        """The part of each text that the prompt shows, followed by that of the second text if there is one."""
        most = self.tokens.prompt.max_field_characters
        return [f"{example.text[:most]} {(example.pair or '')[:most]}".strip() for example in examples]


@dataclass(frozen=True)
class PromptPredictor:
    """Predicts labels by a prompt, as a Predictor does by a task's head."""

    model: PromptedModel
    pool: Pool
    max_tokens: int

    @classmethod
    def of(cls, subject: Subject) -> PromptPredictor:
        """The predictor of a model by its own prompt. Raises InputError if it was trained on none."""
        if subject.prompt is None:
            raise InputError(f"{subject.artifact_id} was not trained on a prompt", fix="Give a prompt.")
        prompt, max_tokens = subject.prompt
        model = PromptedModel(subject, prompt)
        model.check()
        file = (subject.adapter or subject.base) / SHOWN_FILE
        if prompt.demonstrations is not None and not file.exists():
            what = "The rows that its prompt shows are missing, as they stay where a model was trained"
            fix = "Give a prompt with demonstrations.sources, or have it pushed --with-demonstrations."
            raise InputError(what, where=str(file), fix=fix)
        shown = () if prompt.demonstrations is None else tuple(stored.read_examples(file))
        return cls(model, Pool(shown), max_tokens)

    @property
    def task(self) -> TextClassification | RelationExtraction:
        return self.encoder.task

    @property
    def encoder(self) -> PromptEncoder:
        return PromptEncoder(self.model, self.max_tokens)

    @property
    def responder(self) -> PromptedResponder:
        return PromptedResponder(self.model, self.pool)

    def predict(
        self, examples: Sequence[Example], micro_batch_sequences: int, advance: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """One prediction for each text, in order."""
        shown = self.model.demonstrations(examples, self.pool, 0, 0, micro_batch_sequences)
        answers = self.model.answers(examples, shown, micro_batch_sequences, advance)
        return [answer.prediction for answer in answers]
