"""What a task model's numbers say about a text: labels with probabilities, entities, or an answer.

Shapes: S positions of a row, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.specs.training.tasks import (
    QuestionAnswering,
    SequenceToSequence,
    Task,
    TextClassification,
    TokenClassification,
)
from rayloom.text.labelled.encoding import EncodedRow
from rayloom.text.labelled.examples import Span, spans_of_tokens

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """What was found in one text."""

    labels: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    """Entities by character; of a question, the answer, or nothing."""
    probabilities: dict[str, float] | None = None
    """By label; of a question, `answer` is that of the span given."""

    def as_json(self, text: str) -> dict[str, Any]:
        """For people and files: places together with the words that stand there."""
        spans = [asdict(span) | {"text": text[span.start : span.end]} for span in self.spans]
        values: dict[str, Any] = {"labels": list(self.labels)} if self.labels or not spans else {}
        if spans:
            values["spans"] = spans
        if self.probabilities is not None:
            values["probabilities"] = {name: round(p, 4) for name, p in self.probabilities.items()}
        return values


def decoded(task: Task, rows: Sequence[EncodedRow], logits: Sequence[Floats]) -> Prediction:
    """The prediction for a text from its rows' logits: (K,) of a text, (S, K) of tags, (2, S) of an answer."""
    if isinstance(task, TokenClassification):
        return Prediction(spans=_entities(task, rows, logits))
    if isinstance(task, QuestionAnswering):
        return _answer(task, rows, logits)
    if isinstance(task, SequenceToSequence):
        raise ValueError("an encoder-decoder writes its texts, see score.answers.written_texts")
    if isinstance(task, TextClassification) and task.multiple:
        each = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
        chosen = tuple(label for label, p in zip(task.labels, each, strict=True) if p > 0.5)
        return Prediction(chosen, probabilities=dict(zip(task.labels, each.tolist(), strict=True)))
    shares = softmax(logits[0])
    best = task.labels[int(shares.argmax())]
    return Prediction((best,), probabilities=dict(zip(task.labels, shares.tolist(), strict=True)))


def softmax(logits: Floats) -> NDArray[np.float64]:
    powers: NDArray[np.float64] = np.exp(logits.astype(np.float64) - logits.max())
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares


def _entities(task: TokenClassification, rows: Sequence[EncodedRow], logits: Sequence[Floats]) -> tuple[Span, ...]:
    offsets, tags = [], []
    for row, scores in zip(rows, logits, strict=True):
        judged = row.is_judged if row.is_judged is not None else np.ones(len(row.tokens), np.bool_)
        for position in np.flatnonzero(judged):
            offsets.append(row.offsets[position])
            tags.append(task.labels[int(scores[position].argmax())])
    order = sorted(range(len(offsets)), key=lambda number: offsets[number])
    return tuple(spans_of_tokens([offsets[n] for n in order], [tags[n] for n in order]))


def _answer(task: QuestionAnswering, rows: Sequence[EncodedRow], logits: Sequence[Floats]) -> Prediction:
    """The likeliest span of all windows, unless no answer is likelier in every one of them."""
    best, best_score, none_score = None, -np.inf, np.inf
    for row, (starts, ends) in zip(rows, logits, strict=True):
        none_score = min(none_score, float(starts[0] + ends[0]))
        span = best_span(starts, ends, row.offsets, task.max_answer_tokens)
        if span is not None and span[2] > best_score:
            best, best_score = Span(row.offsets[span[0]][0], row.offsets[span[1]][1], "answer"), span[2]
    # Of the two outcomes, each scored by the sum of its ends' logits.
    share = 1 / (1 + float(np.exp(np.clip(none_score - best_score, -50, 50)))) if best is not None else 0.0
    is_given = best is not None and share >= max(0.5, task.min_answer_share)
    return Prediction(spans=(best,) if is_given and best is not None else (), probabilities={"answer": share})


def best_span(
    starts: Floats, ends: Floats, offsets: Sequence[tuple[int, int]], max_tokens: int
) -> tuple[int, int, float] | None:
    """First and last token of the span with the highest sum, and that sum; None where no token is of the text."""
    is_text = np.asarray([start < end for start, end in offsets])
    if not is_text.any():
        return None
    scores = starts[:, None].astype(np.float64) + ends[None, :]
    length = len(offsets)
    allowed = np.triu(np.ones((length, length), np.bool_)) & ~np.triu(np.ones((length, length), np.bool_), max_tokens)
    scores[~(allowed & is_text[:, None] & is_text[None, :])] = -np.inf
    first, last = np.unravel_index(int(scores.argmax()), scores.shape)
    return int(first), int(last), float(scores[first, last])
