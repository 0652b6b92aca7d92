"""What `plan` says about the rows and the method of a training job, before any training."""

from __future__ import annotations

import itertools
from typing import Any

from rich.text import Text

from rayloom.models.adapters import why_not_served
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import LoraAdapter, NoAdapter
from rayloom.specs.training.labelled_data import LabelledData
from rayloom.specs.training.policies import PromptData
from rayloom.specs.training.preferences import Kto, PreferenceData
from rayloom.specs.training.prompted import classes_of
from rayloom.specs.training.tasks import (
    QuestionAnswering,
    RewardScoring,
    SequenceToSequence,
    TokenClassification,
    step_separator_of,
)
from rayloom.specs.training.training_data import ConversationData
from rayloom.text.conversations.preference_rows import PreferenceRows
from rayloom.text.labelled.dataset import EXAMPLES_NAME
from rayloom.text.labelled.examples import Example, read_examples
from rayloom.text.packed.preview import CONTEXT, TRAINED, documents, examples, marked
from rayloom.text.packed.shards import TokenShards
from rayloom.train.job import TrainJob
from rayloom.train.objectives.prompted import asked_of, first_prompts
from rayloom.train.sizes.model_size import ModelSize

NUM_EXAMPLES = 2
FEW_ROWS = 500
"""With fewer rows, the result depends on which rows were chosen (Zhou et al. 2023 curated 1,000)."""
LEARNING_RATE_FACTOR = 10
"""A learning rate that differs from the method's usual one by more than this factor gets a warning."""
LOW_RANK = 8
PARAMETERS_PER_TRAINED_TOKEN = 1000
"""With more trained parameters for each trained token, a smaller method does as well."""
EXAMPLE_CHARACTERS = 600
IMBALANCE = 10
"""A label that is this many times rarer than the most frequent one is hardly learned without a class weight."""
UNEVEN = 4
"""Largest ratio of the total weights of good and bad answers without a warning (Ethayarajh et al. 2024, 4.2)."""


def add_rows(sheet: PlanSheet, job: TrainJob, counts: dict[str, Any]) -> None:
    """Adds the counts of rows kept and left out, their lengths, the trained tokens, and the first examples."""
    data = job.spec.data
    if not isinstance(data, ConversationData | LabelledData | PreferenceData | PromptData):
        return
    for source, rows in counts["rows_read"].items():
        sheet.add(f"rows of source {source}", rows)
    for reason, rows in counts["left_out"].items():
        sheet.add(f"left out: {reason}", rows)
    if counts.get("truncated_rows"):
        sheet.add("truncated rows", counts["truncated_rows"])
    if counts.get("unknown_keys"):
        named = ", ".join(f"{key} ({rows:,})" for key, rows in counts["unknown_keys"].items())
        sheet.add("keys without a meaning", f"{named}: not read")
    lengths = ", ".join(f"{name} {tokens:,}" for name, tokens in counts["lengths_tokens"].items())
    if isinstance(data, ConversationData):
        _add_conversations(sheet, job, counts, lengths)
    elif isinstance(data, LabelledData):
        _add_labelled(sheet, job, counts, lengths)
    elif isinstance(data, PromptData):
        sheet.add("tokens of a prompt", lengths)
        return
    else:
        _add_preferences(sheet, job, counts, lengths)
    if counts["train"]["rows"] < FEW_ROWS:
        few = counts["train"]["rows"]
        sheet.warnings.append(f"{few} training rows are few: under {FEW_ROWS}, results depend on chance")


def _add_conversations(sheet: PlanSheet, job: TrainJob, counts: dict[str, Any], lengths: str) -> None:
    from rayloom.pretrained import AutoTokenizer

    train, data = counts["train"], job.spec.data
    sheet.add("rows trained on", f"{train['rows']:,} an epoch, {counts['heldout']['rows']:,} held out")
    sheet.add("tokens of a row", lengths)
    sheet.add("trained tokens", f"{train['trained_tokens']:,} of {train['tokens']:,} an epoch")
    sheet.add("packing", f"{train['packed_rows']:,} rows, {train['filled_share']:.1%} filled")
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    shards = TokenShards(job.train[0], job.spec.sequence_length_tokens)
    for number, example in enumerate(examples(shards, tokenizer, NUM_EXAMPLES), 1):
        sheet.examples += [Text(f"example {number}, what is trained in green:", style="underline"), example]
    if counts["repeated_in_training"]:
        sheet.warnings.append(f"{counts['repeated_in_training']} training rows say the same as an earlier one")
    if isinstance(data, ConversationData) and data.system is not None:
        sheet.warnings.append(
            "data.system is trained with, but is no part of the chat template: requests to the server must send it too"
        )
    if isinstance(data, ConversationData) and data.chat_template_kwargs:
        sheet.warnings.append(
            "data.chat_template_kwargs is trained with: requests must send the same, or the service have it as default"
        )


def _add_labelled(sheet: PlanSheet, job: TrainJob, counts: dict[str, Any], lengths: str) -> None:
    train, heldout = counts["train"], counts["heldout"]
    sheet.add("texts", f"{train['rows']:,} an epoch in {train['windows']:,} rows, {heldout['rows']:,} held out")
    sheet.add("tokens of a text", lengths)
    sheet.add("labels", ", ".join(f"{label} {n:,}" for label, n in train["labels"].items()))
    _add_prompts(sheet, job)
    count = NUM_EXAMPLES if job.spec.prompt is None else 0
    for example in itertools.islice(read_examples(job.heldout["heldout"] / EXAMPLES_NAME), count):
        sheet.examples += [Text(f"{example.origin}, what is asked for in green:", style="underline"), _shown(example)]
    _warn_about_labels(sheet, job, counts)


def _add_prompts(sheet: PlanSheet, job: TrainJob) -> None:
    """Adds how a model is asked that is trained on a prompt, and label words that are hard to tell apart."""
    prompt = job.spec.prompt
    if prompt is None or job.base is None:
        return
    how = prompt.demonstrations
    shown = "" if how is None else f", {how.num_rows} other rows before each ({how.choose}), drawn each time anew"
    sheet.add("prompt", f"{prompt.scoring.type}, {len(prompt.labels)} labels{shown}")
    sheet.warnings += asked_of(prompt, job.base).shared_first_tokens()
    for example, text, answer in first_prompts(job, NUM_EXAMPLES):
        read = Text(text, style=CONTEXT).append(f" → {answer}", style=TRAINED)
        sheet.examples += [Text(f"{example.origin}, the word that is learned in green:", style="underline"), read]


def _shown(example: Example) -> Text:
    """The text with its spans marked, then its labels."""
    text = Text(example.text[:EXAMPLE_CHARACTERS], style=CONTEXT)
    for span in example.spans:
        text.stylize(TRAINED, span.start, min(span.end, EXAMPLE_CHARACTERS))
    if example.pair is not None:
        text.append(f"\n{example.pair[:EXAMPLE_CHARACTERS]}", style=CONTEXT)
    labels = example.labels or tuple(dict.fromkeys(span.label for span in example.spans))
    return text.append(f"\n→ {', '.join(labels) or 'nothing'}", style=TRAINED)


def _warn_about_labels(sheet: PlanSheet, job: TrainJob, counts: dict[str, Any]) -> None:
    train, prompt = counts["train"], job.spec.prompt
    task = job.spec.headed_task if prompt is None else classes_of(prompt)
    if counts["repeated_in_training"]:
        sheet.warnings.append(f"{counts['repeated_in_training']} training rows have the text of an earlier one")
    if counts["contradicting"]:
        sheet.warnings.append(f"{counts['contradicting']} of them have another label than that one")
    if task is None or isinstance(task, QuestionAnswering | SequenceToSequence | RewardScoring):
        return
    wanted = task.entities if isinstance(task, TokenClassification) else task.labels
    missing = [label for label in wanted if not train["labels"].get(label)]
    if missing:
        sheet.problems.append(f"no training row has the label {', '.join(missing)}: it cannot be learned")
    occurring = {label: train["labels"][label] for label in wanted if train["labels"].get(label)}
    rare = [label for label, n in occurring.items() if n * IMBALANCE < max(occurring.values())]
    if rare and task.class_weights is None:
        sheet.warnings.append(
            f"{', '.join(rare)} is over {IMBALANCE} times rarer than the most frequent label: task.class_weights helps"
        )


def _add_preferences(sheet: PlanSheet, job: TrainJob, counts: dict[str, Any], lengths: str) -> None:
    from rayloom.pretrained import AutoTokenizer

    train = counts["train"]
    sheet.add("rows trained on", f"{train['rows']:,} an epoch, {counts['heldout']['rows']:,} held out")
    sheet.add("tokens of a row", lengths)
    if step_separator_of(job.spec.headed_task) is not None:
        sheet.add("judged steps", f"{train['trained_tokens']:,} an epoch, {train['good']:,} of them right")
        if train["good"] in (0, train["trained_tokens"]):
            sheet.problems.append("all steps were judged alike: there is nothing to learn from that")
        return
    sheet.add("judged tokens", f"{train['trained_tokens']:,} of {train['tokens']:,} an epoch")
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    row = PreferenceRows(job.train[0], job.spec.sequence_length_tokens).row(0)
    names = ("another row's answer", "the answer") if isinstance(job.spec.preference, Kto) else ("rejected", "chosen")
    for part in documents(row.row):
        sheet.examples += [
            Text(f"{names[part.start == 0]}, in green:", style="underline"),
            marked(row.row, part, tokenizer),
        ]
    if isinstance(job.spec.preference, Kto):
        _warn_if_uneven(sheet, job.spec.preference, train)


def _warn_if_uneven(sheet: PlanSheet, preference: Kto, train: dict[str, int]) -> None:
    good, bad = train["good"], train["rows"] - train["good"]
    sheet.add("judged good and bad", f"{good:,} and {bad:,}")
    if not good or not bad:
        sheet.problems.append("all answers were judged alike: there is nothing to learn from that")
        return
    ratio = good * preference.good_weight / (bad * preference.bad_weight)
    if not 1 / UNEVEN <= ratio <= UNEVEN:
        sheet.warnings.append(f"good answers weigh {ratio:.2g} times as much as bad ones: set their weights")


def add_method(sheet: PlanSheet, spec: TrainSpec, size: ModelSize, counts: dict[str, Any]) -> None:
    """Adds whether the result can be served without merging, and warnings about unusual settings of the method."""
    if spec.base is None:
        return
    reason = _why_not_served(spec)
    if reason is not None:
        sheet.add("serving", f"not as it is: {reason}")
    elif not isinstance(spec.adapter, NoAdapter):
        sheet.add("serving", "the server can load it beside its base, or merged")
    usual = spec.adapter.usual_learning_rate
    if spec.learning_rate is None:
        sheet.add("learning rate", f"{usual:g}, usual for {spec.adapter.type}")
    elif (
        spec.keep_layers is None and not 1 / LEARNING_RATE_FACTOR <= spec.learning_rate / usual <= LEARNING_RATE_FACTOR
    ):
        sheet.warnings.append(
            f"learning_rate {spec.learning_rate:g} is far from what {spec.adapter.type} uses: {usual:g}"
        )
    trained_tokens = counts.get("train", {}).get("trained_tokens")
    better = _what_suits_few_rows(spec)
    if trained_tokens and better and size.trained > PARAMETERS_PER_TRAINED_TOKEN * trained_tokens:
        for_each = size.trained / trained_tokens
        sheet.warnings.append(f"{for_each:,.0f} trained parameters for each trained token: {better}")


def _what_suits_few_rows(spec: TrainSpec) -> str | None:
    if isinstance(spec.adapter, LoraAdapter) and spec.adapter.rank > LOW_RANK:
        return f"a lower rank does as well, such as {LOW_RANK}"
    if isinstance(spec.adapter, NoAdapter):
        return "adapter: {type: lora} does as well on so few, and forgets less (Biderman et al. 2024)"
    return None


def _why_not_served(spec: TrainSpec) -> str | None:
    if spec.objective_in_use.type == "masked":
        return "an encoder writes no text: serve it under `predictors`"
    if spec.headed_task is None:
        return why_not_served(spec.adapter)
    return "a task's labels are no text: serve it under `predictors`"
