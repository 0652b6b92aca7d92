"""The check of a task: predictions for the texts that its training held out, scored, beside a linear baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayloom.errors import InputError
from rayloom.evaluate.checks.check import Case, Measured
from rayloom.evaluate.checks.linear import linear_predictions
from rayloom.evaluate.checks.scored import ScoreCheck, interval, wrong_texts
from rayloom.models.responders.responder import predictor_of, task_of
from rayloom.models.responders.subject import heldout_examples
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.progress import progress, say
from rayloom.observe.report_page import Section, table
from rayloom.score.class_scores import Part, Scores, confusion, of_difference, of_ratio, ratio, scores
from rayloom.score.text_scores import exact_match, sentence_chrf, text_scores, word_f1
from rayloom.specs.evaluate import TaskCheck
from rayloom.specs.prompting import MultipleChoice
from rayloom.specs.training.tasks import (
    QuestionAnswering,
    SequenceToSequence,
    Task,
    TextClassification,
    TokenClassification,
)
from rayloom.text.labelled.dataset import NO_LABEL
from rayloom.text.labelled.decoding import Prediction
from rayloom.text.labelled.examples import Example


class TaskScore(ScoreCheck[TaskCheck]):
    """How many labels, entities or answers are right, by class, and beside a linear model."""

    further = ("accuracy", "macro_f1", "micro_f1", "exact_match", "chrf", "bleu", "rouge1", "rouge2", "rouge_l")
    texts = staticmethod(wrong_texts)

    def ready(self, case: Case[TaskCheck]) -> None:
        task = task_of(case.subject)
        if task is None:
            what = f"{case.subject.artifact_id} was not trained for a task"
            raise InputError(what, where="model", fix="Name the result of a `train` job with a task.")
        examples = heldout_examples(case.rows)
        known = set(getattr(task, "entities", getattr(task, "labels", ())))
        if not isinstance(task, QuestionAnswering | SequenceToSequence):
            strange = sorted(set(_said(task, examples)) - known)
            if strange:
                what = f"The held-out texts of {case.rows.id} have the label {', '.join(strange)}"
                fix = f"{case.subject.artifact_id} knows {', '.join(sorted(known))}."
                raise InputError(what, where="rows_of", fix=fix)

    def plan(self, case: Case[TaskCheck], sheet: PlanSheet) -> None:
        sheet.add(case.spec.name, f"{len(heldout_examples(case.rows)):,} held-out texts of {case.rows.id}")

    def measure(self, case: Case[TaskCheck]) -> Measured:
        spec, subject = case.spec, case.subject
        examples = heldout_examples(case.rows)
        predictor = predictor_of(subject)
        with progress(f"{spec.name}: {subject.artifact_id}", len(examples), "texts") as bar:
            predictions = predictor.predict(examples, case.micro_batch_sequences, bar.advance)
        judged = judge(predictor.task, examples, predictions)
        metrics = judged.metrics
        if spec.linear_baseline and subject.role == "model" and case.store is not None:
            say(f"{spec.name}: training a linear model on the same rows")
            baseline = judge(predictor.task, examples, linear_predictions(predictor, case.rows, examples, case.store))
            metrics["linear_baseline"] = compared(judged, baseline)
        return Measured(metrics, readable(spec.name, predictor.task, examples, predictions, judged), judged.parts)

    def short(self, metrics: Mapping[str, Any]) -> str:
        linear = metrics.get("linear_baseline")
        return super().short(metrics) + (f", linear {linear['score']:.3f}" if linear else "")

    def scores(self, metrics: Mapping[str, Any]) -> list[tuple[str, float, str]]:
        rows = super().scores(metrics)
        if linear := metrics.get("linear_baseline"):
            rows.append(("linear model on the same rows", float(linear["score"]), interval(linear["interval"])))
            rows.append(("better by", float(linear["difference"]), interval(linear["difference_interval"])))
        return rows

    def sections(self, title: str, metrics: Mapping[str, Any], better: Mapping[str, Any]) -> list[Section]:
        """Also each class, and which was taken for which, for tasks that have classes and one label for each text."""
        return super().sections(title, metrics, better) + class_sections(title, metrics)


def class_sections(title: str, metrics: Mapping[str, Any]) -> list[Section]:
    """Each class, and which was taken for which, where the metrics say so."""
    parts: list[Section] = []
    if "by_class" in metrics:
        classes = [
            (label, float(s["precision"]), float(s["recall"]), float(s["f1"]), s["support"])
            for label, s in metrics["by_class"].items()
        ]
        parts.append(Section(f"{title}, by class", table(("", "precision", "recall", "F1", "support"), classes)))
    if "confusion" in metrics:
        labels = metrics["confusion"]["labels"]
        counts = zip(labels, metrics["confusion"]["counts"], strict=True)
        body = table(("is / was answered", *labels), [(label, *row) for label, row in counts])
        parts.append(Section(f"{title}, confusion", body))
    return parts


@dataclass(frozen=True)
class Judged:
    """How good predictions are, and what each text adds to that."""

    metrics: dict[str, Any]
    parts: list[Part]
    is_right: list[bool]


def judge(task: Task | MultipleChoice, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Judged:
    """Scores of the predictions with a 95 % interval."""
    if isinstance(task, QuestionAnswering):
        judged = _answers(examples, predictions)
    elif isinstance(task, SequenceToSequence):
        judged = _texts(examples, predictions)
    elif isinstance(task, TokenClassification):
        want = [_entities(example.spans) for example in examples]
        got = [_entities(prediction.spans) for prediction in predictions]
        judged = _classes("entity F1", scores(want, got, task.entities), _f1_parts(want, got), want, got)
    elif isinstance(task, MultipleChoice):
        is_right = [w.labels == g.labels for w, g in zip(examples, predictions, strict=True)]
        judged = Judged({"score_name": "accuracy"}, [(float(right), 1.0) for right in is_right], is_right)
    else:
        judged = _labels(task, examples, predictions)
    metrics = {"score": round(ratio(judged.parts), 6), "interval": of_ratio(judged.parts).as_metrics()}
    return Judged(judged.metrics | metrics | {"num_rows": len(examples)}, judged.parts, judged.is_right)


def compared(one: Judged, other: Judged) -> dict[str, Any]:
    """The other's score, and how much better the one is, with an interval over the same texts."""
    return {
        "score": other.metrics["score"],
        "interval": other.metrics["interval"],
        "difference": round(one.metrics["score"] - other.metrics["score"], 6),
        "difference_interval": of_difference(one.parts, other.parts).as_metrics(),
    }


def _labels(task: Task, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Judged:
    want, got = [set(e.labels) for e in examples], [set(p.labels) for p in predictions]
    labels = task.labels  # type: ignore[union-attr]
    if isinstance(task, TextClassification) and task.multiple:
        return _classes("micro F1", scores(want, got, labels), _f1_parts(want, got), want, got)
    parts = [(float(w == g), 1.0) for w, g in zip(want, got, strict=True)]
    judged = _classes("accuracy", scores(want, got, labels), parts, want, got)
    # A model that writes may name no label at all.
    answered = [p.labels[0] if p.labels else NO_LABEL for p in predictions]
    names = [*labels, NO_LABEL] if NO_LABEL in answered else [*labels]
    counts = confusion([e.labels[0] for e in examples], answered, names)
    return Judged(judged.metrics | {"confusion": {"labels": names, "counts": counts}}, parts, judged.is_right)


def _classes(name: str, scored: Scores, parts: list[Part], want: Sequence[Any], got: Sequence[Any]) -> Judged:
    metrics = {
        "score_name": name,
        "accuracy": round(scored.accuracy, 6),
        "macro_f1": round(scored.macro_f1, 6),
        "micro_f1": round(scored.micro_f1, 6),
        "by_class": {label: score.as_metrics() for label, score in scored.by_class.items()},
    }
    return Judged(metrics, parts, [w == g for w, g in zip(want, got, strict=True)])


def _answers(examples: Sequence[Example], predictions: Sequence[Prediction]) -> Judged:
    pairs = [
        ([example.text[s.start : s.end] for s in example.spans], _words(example, prediction))
        for example, prediction in zip(examples, predictions, strict=True)
    ]
    exact = [exact_match(answers, words) for answers, words in pairs]
    f1 = [word_f1(answers, words) for answers, words in pairs]
    metrics = {"score_name": "answer F1", "exact_match": round(sum(exact) / len(exact), 6)}
    return Judged(metrics, [(value, 1.0) for value in f1], [bool(value) for value in exact])


def _texts(examples: Sequence[Example], predictions: Sequence[Prediction]) -> Judged:
    want, got = [example.labels[0] for example in examples], [prediction.labels[0] for prediction in predictions]
    values = sentence_chrf(want, got)
    metrics = {"score_name": "chrF"} | text_scores(want, got)
    return Judged(metrics, [(value, 1.0) for value in values], [w == g for w, g in zip(want, got, strict=True)])


def _f1_parts(want: Sequence[set[Any]], got: Sequence[set[Any]]) -> list[Part]:
    return [(2.0 * len(w & g), float(len(w) + len(g))) for w, g in zip(want, got, strict=True)]


def _entities(spans: Sequence[Any]) -> set[tuple[int, int, str]]:
    return {(span.start, span.end, span.label) for span in spans}


def _words(example: Example, prediction: Prediction) -> str:
    """The answer's words; what a model wrote may stand nowhere in the text."""
    return " ".join([*prediction.labels, *(example.text[span.start : span.end] for span in prediction.spans)])


def _said(task: Task, examples: Sequence[Example]) -> list[str]:
    if isinstance(task, TokenClassification):
        return [span.label for example in examples for span in example.spans]
    return [label for example in examples for label in example.labels]


def readable(
    name: str,
    task: Task | MultipleChoice,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    judged: Judged,
) -> list[dict[str, Any]]:
    return [
        {
            "check": name,
            "origin": example.origin,
            "text": example.text,
            **({"pair": example.pair} if example.pair is not None else {}),
            "expected": in_words(task, example.labels, example),
            "found": in_words(task, prediction.labels, Example(example.text, spans=prediction.spans)),
            "is_right": is_right,
            **({"probabilities": prediction.probabilities} if prediction.probabilities is not None else {}),
        }
        for example, prediction, is_right in zip(examples, predictions, judged.is_right, strict=True)
    ]


def in_words(task: Task | MultipleChoice, labels: Sequence[str], example: Example) -> list[str]:
    """Labels, or what stands at each place with its kind: `person: Anna`."""
    if isinstance(task, TokenClassification | QuestionAnswering):
        return [*labels, *(f"{span.label}: {example.text[span.start : span.end]}" for span in example.spans)]
    return list(labels)
