"""What an evaluation would do, without loading a weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.text import Text

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import RayloomError
from rayloom.evaluate.checks.checks import check_ready, heldout_shards, prompt_text, rows_of_check
from rayloom.models.responders.subject import Subject, heldout_examples, subjects
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.evaluate import AnswersCheck, EvaluateSpec, HarnessCheck, HeldoutLoss, TaskCheck, WrittenCheck


def plan(spec: EvaluateSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """The models, the checks with their sizes and limits, and what would make it fail before a model is loaded."""
    sheet = PlanSheet()
    try:
        compared = subjects(parents, Store.beside(job_directory))
    except RayloomError as error:
        sheet.problems.append(str(error))
        return sheet
    for subject in compared:
        beside = f", an adapter on {subject.base.parent.name}@{subject.base.name}" if subject.adapter else ""
        sheet.add(subject.role, f"{subject.artifact_id}{beside}")
    for number in range(len(spec.checks)):
        _add_check(sheet, spec, number, parents, compared)
    return sheet


def _add_check(
    sheet: PlanSheet, spec: EvaluateSpec, number: int, parents: Mapping[str, Artifact], compared: list[Subject]
) -> None:
    check = spec.checks[number]
    rows_of = rows_of_check(parents, number)
    try:
        for subject in compared:
            check_ready(check, rows_of, subject)
        if isinstance(check, TaskCheck) and rows_of is not None:
            sheet.add(check.name, f"{len(heldout_examples(rows_of)):,} held-out texts of {rows_of.id}")
        elif isinstance(check, AnswersCheck):
            sheet.add(check.name, f"{len(check.prompts)} prompts, answers of up to {check.max_new_tokens} tokens")
            prompt = prompt_text(check, compared[0], check.prompts[0])
            sheet.examples.append(Text(f"{check.name}, first prompt:\n{prompt}", style="dim"))
        elif isinstance(check, HarnessCheck):
            sheet.add(check.name, f"the harness' {', '.join(check.tasks)}")
        elif isinstance(check, HeldoutLoss | WrittenCheck) and rows_of is not None:
            shards = heldout_shards(rows_of)
            sheet.add(check.name, f"{shards.num_tokens:,} held-out tokens of {rows_of.id} in {len(shards):,} rows")
    except RayloomError as error:
        sheet.problems.append(str(error))
