"""What `plan` says about judged answers before anything is trained."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.training.preferences import Kto, PreferenceData
from rayloom.text.conversations.preference_rows import PreferenceRows
from rayloom.text.packed.preview import documents, marked
from rayloom.train.job import TrainJob
from rayloom.train.planning.preflight import add_rows_read, warn_if_few

UNEVEN = 4
"""Good and bad answers this far from even are weighed (Ethayarajh et al. 2024, section 4.2)."""


def add_preferences(sheet: PlanSheet, job: TrainJob, counts: dict[str, Any]) -> None:
    """Where every row goes, how long pairs are, and the first pair with what is judged marked."""
    if not isinstance(job.spec.data, PreferenceData):
        return
    from transformers import AutoTokenizer

    add_rows_read(sheet, counts)
    train = counts["train"]
    sheet.add("rows trained on", f"{train['rows']:,} an epoch, {counts['heldout']['rows']:,} held out")
    sheet.add("tokens of a row", ", ".join(f"{name} {tokens:,}" for name, tokens in counts["lengths_tokens"].items()))
    sheet.add("judged tokens", f"{train['trained_tokens']:,} of {train['tokens']:,} an epoch")
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    row = PreferenceRows(job.train[0], job.spec.sequence_length_tokens).row(0)
    names = ("another row's answer", "the answer") if isinstance(job.spec.preference, Kto) else ("rejected", "chosen")
    for part in documents(row.row):
        sheet.examples += [
            Text(f"{names[part.start == 0]}, in green:", style="underline"),
            marked(row.row, part, tokenizer),
        ]
    warn_if_few(sheet, train)
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
