"""What `plan` says about labelled data before anything is trained."""

from __future__ import annotations

import itertools
from typing import Any

from rich.text import Text

from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.training.labelled_data import LabelledData
from rayloom.specs.training.tasks import QuestionAnswering, SequenceToSequence, TokenClassification
from rayloom.text.labelled.dataset import EXAMPLES_NAME
from rayloom.text.labelled.examples import Example, read_examples
from rayloom.text.packed.preview import CONTEXT, TRAINED
from rayloom.train.job import TrainJob
from rayloom.train.planning.preflight import add_rows_read, warn_if_few

NUM_EXAMPLES = 2
EXAMPLE_CHARACTERS = 600
IMBALANCE = 10
"""A label this many times rarer than the most frequent one is hardly learned without a weight."""


def add_labelled(sheet: PlanSheet, job: TrainJob, counts: dict[str, Any]) -> None:
    """Where every row goes, how long texts are, how often each label occurs, and the first examples."""
    if not isinstance(job.spec.data, LabelledData):
        return
    add_rows_read(sheet, counts)
    train, heldout = counts["train"], counts["heldout"]
    sheet.add("texts", f"{train['rows']:,} an epoch in {train['windows']:,} rows, {heldout['rows']:,} held out")
    sheet.add("tokens of a text", ", ".join(f"{name} {n:,}" for name, n in counts["lengths_tokens"].items()))
    sheet.add("labels", ", ".join(f"{label} {n:,}" for label, n in train["labels"].items()))
    for example in itertools.islice(read_examples(job.heldout["heldout"] / EXAMPLES_NAME), NUM_EXAMPLES):
        sheet.examples += [Text(f"{example.origin}, what is asked for in green:", style="underline"), shown(example)]
    _warn(sheet, job, counts)


def shown(example: Example) -> Text:
    """A text with its places marked, and its labels behind it."""
    text = Text(example.text[:EXAMPLE_CHARACTERS], style=CONTEXT)
    for span in example.spans:
        text.stylize(TRAINED, span.start, min(span.end, EXAMPLE_CHARACTERS))
    if example.pair is not None:
        text.append(f"\n{example.pair[:EXAMPLE_CHARACTERS]}", style=CONTEXT)
    said = example.labels or tuple(dict.fromkeys(span.label for span in example.spans))
    return text.append(f"\n→ {', '.join(said) or 'nothing'}", style=TRAINED)


def _warn(sheet: PlanSheet, job: TrainJob, counts: dict[str, Any]) -> None:
    train, task = counts["train"], job.spec.task
    warn_if_few(sheet, train)
    if counts["repeated_in_training"]:
        sheet.warnings.append(f"{counts['repeated_in_training']} training rows have the text of an earlier one")
    if counts["contradicting"]:
        sheet.warnings.append(f"{counts['contradicting']} of them have another label than that one")
    if task is None or isinstance(task, QuestionAnswering | SequenceToSequence):
        return
    wanted = task.entities if isinstance(task, TokenClassification) else task.labels
    missing = [label for label in wanted if not train["labels"].get(label)]
    if missing:
        sheet.problems.append(f"no training row has the label {', '.join(missing)}: it cannot be learned")
    found = {label: train["labels"][label] for label in wanted if train["labels"].get(label)}
    rare = [label for label, n in found.items() if n * IMBALANCE < max(found.values())]
    if rare and task.class_weights is None:
        sheet.warnings.append(
            f"{', '.join(rare)} is over {IMBALANCE} times rarer than the most frequent label: task.class_weights helps"
        )
