"""What an evaluation would do, without loading a weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import RayloomError
from rayloom.evaluate.checks.registry import cases
from rayloom.models.responders.subject import subjects
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.specs.evaluate import EvaluateSpec


def plan(spec: EvaluateSpec, parents: Mapping[str, Artifact], job_directory: Path) -> PlanSheet:
    """The models, the checks with their sizes and limits, and what would make it fail before a model is loaded."""
    sheet, store = PlanSheet(), Store.beside(job_directory)
    try:
        compared = subjects(parents, store)
    except RayloomError as error:
        sheet.problems.append(str(error))
        return sheet
    for subject in compared:
        beside = f", an adapter on {subject.base.parent.name}@{subject.base.name}" if subject.adapter else ""
        sheet.add(subject.role, f"{subject.artifact_id}{beside}")
    for of_models in zip(*(cases(spec, parents, subject, store) for subject in compared), strict=True):
        try:
            for check, case in of_models:
                check.ready(case)
            check, case = of_models[0]
            check.plan(case, sheet)
        except RayloomError as error:
            sheet.problems.append(str(error))
    return sheet
