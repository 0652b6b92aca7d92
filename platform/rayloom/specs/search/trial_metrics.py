"""The metrics of a search's trials: their names, for which of them larger is better, and which checks fit the job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from rayloom.specs.evaluate import CHECK_METRICS, AnswersCheck, HeldoutLoss, TaskCheck
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.prompted import TrainTask
from rayloom.specs.training.tasks import QuestionAnswering, SequenceToSequence

TrialCheck = Annotated[HeldoutLoss | AnswersCheck | TaskCheck, Field(discriminator="type")]

_TRAINING_METRICS = (
    "heldout_loss",
    "heldout_perplexity",
    "train_loss",
    "tokens_per_second",
    "peak_memory_bytes",
    "seconds",
)
_OF_JUDGED_ROWS = ("heldout_accuracy", "heldout_score")
"""Accuracy on held-out labels, and the score that an evaluation of the task would give; for preferences, the share of
pairs in which the model prefers the chosen answer; for a policy the score is the mean reward of the likeliest answers
to held-out prompts, and the loss 1 less that."""
RESULT_METRICS = ("trainable_parameters",)
"""Metrics that are known only of finished trials, as are those of checks."""
_LARGER_IS_BETTER = (
    "tokens_per_second",
    "accuracy",
    "score",
    "_f1",
    ".exact_match",
    ".share",
    ".count",
    "goodput_share",
)
_WITHOUT_CLASSES = {QuestionAnswering: ("score", "exact_match"), SequenceToSequence: ("score",)}
_OF_CLASSES = ("score", "accuracy", "macro_f1", "micro_f1")


def is_better_large(metric: str) -> bool:
    return metric.endswith(_LARGER_IS_BETTER)


def training_metrics(train: TrainSpec) -> tuple[str, ...]:
    """The metrics that training reports at each measurement."""
    if train.policy is not None:
        return (*(name for name in _TRAINING_METRICS if name != "heldout_perplexity"), _OF_JUDGED_ROWS[1])
    counts_hits = train.task is not None or train.preference is not None
    return (*_TRAINING_METRICS, *_OF_JUDGED_ROWS) if counts_hits else _TRAINING_METRICS


def check_metrics(checks: Sequence[TrialCheck], task: TrainTask | None) -> tuple[str, ...]:
    """The metrics of checks, as `checks.NAME.KEY`."""
    return tuple(f"checks.{check.name}.{key}" for check in checks for key in _keys(check, task))


def _keys(check: TrialCheck, task: TrainTask | None) -> tuple[str, ...]:
    if isinstance(check, TaskCheck) and task is not None:
        return _WITHOUT_CLASSES.get(type(task), _OF_CLASSES)
    return CHECK_METRICS[check.type]


def check_problems(checks: Sequence[TrialCheck], train: TrainSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Path and text of problems: checks that do not fit the job's task, and duplicate names."""
    for number, check in enumerate(checks):
        if train.learns_reward or isinstance(check, TaskCheck) != (train.task is not None):
            wanted = (
                "metric accuracy"
                if train.learns_reward
                else "a check of type task"
                if train.task is not None
                else "heldout_loss or answers"
            )
            kind = "learns a task" if train.task is not None else "has no task"
            yield ("checks", number, "type"), f"the training job {kind}: use {wanted}"
    names = [check.name for check in checks]
    if len(set(names)) < len(names):
        yield ("checks",), "two checks have the same name"
