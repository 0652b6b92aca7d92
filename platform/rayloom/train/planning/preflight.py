"""What `plan` says about conversations and methods before anything is trained."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from rayloom.models.adapters import why_not_served
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.train import TrainSpec
from rayloom.specs.training.adapters import LoraAdapter, NoAdapter
from rayloom.specs.training.training_data import ConversationData
from rayloom.text.packed.preview import examples
from rayloom.text.packed.shards import TokenShards
from rayloom.train.job import TrainJob
from rayloom.train.sizes.model_size import ModelSize

NUM_EXAMPLES = 2
FEW_ROWS = 500
"""Below this, what is learned depends on which rows they happen to be (Zhou et al. 2023 used 1,000 chosen ones)."""
LEARNING_RATE_FACTOR = 10
"""So far from a method's usual learning rate, a warning."""
LOW_RANK = 8
PARAMETERS_PER_TRAINED_TOKEN = 1000
"""More trained parameters for each trained token than this, and a smaller method does as well."""


def add_conversations(sheet: PlanSheet, job: TrainJob, counts: dict[str, Any]) -> None:
    """Where every row goes, how long rows are, what is trained of them, and the first examples with that marked."""
    if not isinstance(job.spec.data, ConversationData):
        return
    from transformers import AutoTokenizer

    add_rows_read(sheet, counts)
    train, lengths = counts["train"], counts["lengths_tokens"]
    sheet.add("rows trained on", f"{train['rows']:,} an epoch, {counts['heldout']['rows']:,} held out")
    sheet.add("tokens of a row", ", ".join(f"{name} {tokens:,}" for name, tokens in lengths.items()))
    sheet.add("trained tokens", f"{train['trained_tokens']:,} of {train['tokens']:,} an epoch")
    sheet.add("packing", f"{train['packed_rows']:,} rows, {train['filled_share']:.1%} filled")
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    shards = TokenShards(job.train[0], job.spec.sequence_length_tokens)
    for number, example in enumerate(examples(shards, tokenizer, NUM_EXAMPLES), 1):
        sheet.examples += [Text(f"example {number}, what is trained in green:", style="underline"), example]
    _warn_about_rows(sheet, job.spec, counts)


def add_rows_read(sheet: PlanSheet, counts: dict[str, Any]) -> None:
    """Where every row of the sources goes, whatever it is for."""
    for source, rows in counts["rows_read"].items():
        sheet.add(f"rows of source {source}", rows)
    for reason, rows in counts["left_out"].items():
        sheet.add(f"left out: {reason}", rows)
    if counts.get("truncated_rows"):
        sheet.add("truncated rows", counts["truncated_rows"])


def warn_if_few(sheet: PlanSheet, train: dict[str, Any]) -> None:
    if train["rows"] < FEW_ROWS:
        sheet.warnings.append(f"{train['rows']} training rows are few: under {FEW_ROWS}, results depend on chance")


def _warn_about_rows(sheet: PlanSheet, spec: TrainSpec, counts: dict[str, Any]) -> None:
    train = counts["train"]
    warn_if_few(sheet, train)
    if counts["repeated_in_training"]:
        sheet.warnings.append(f"{counts['repeated_in_training']} training rows say the same as an earlier one")
    if isinstance(spec.data, ConversationData) and spec.data.system is not None:
        sheet.warnings.append(
            "data.system is trained with, but is no part of the chat template: requests to the server must send it too"
        )


def add_method(sheet: PlanSheet, spec: TrainSpec, size: ModelSize, counts: dict[str, Any]) -> None:
    """Whether the result can be served as it is, and what is unusual about the method's settings."""
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
    elif not usual / LEARNING_RATE_FACTOR <= spec.learning_rate <= usual * LEARNING_RATE_FACTOR:
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
    if spec.task is None:
        return why_not_served(spec.adapter)
    return "a task's labels are no text: serve it under `predictors`"
