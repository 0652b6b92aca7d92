"""Every type of check: the one list that `plan`, the job, its report and a search's trials read.

A new one is a spec in `specs/evaluate.py`, a file beside this one, and a line below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rayloom.artifacts.store import Artifact, Store
from rayloom.evaluate.checks.answers import AnswerShare
from rayloom.evaluate.checks.check import Case, Check
from rayloom.evaluate.checks.harness import HarnessScore
from rayloom.evaluate.checks.heldout import Perplexity
from rayloom.evaluate.checks.pairs import PairAccuracy
from rayloom.evaluate.checks.prompted import PromptedScore
from rayloom.evaluate.checks.task import TaskScore
from rayloom.evaluate.checks.written import WrittenScore
from rayloom.models.responders.subject import Subject
from rayloom.specs.evaluate import EvaluateSpec

CHECKS: dict[str, Check[Any]] = {
    "task": TaskScore(),
    "prompted": PromptedScore(),
    "pairs": PairAccuracy(),
    "lm_eval": HarnessScore(),
    "written": WrittenScore(),
    "heldout_loss": Perplexity(),
    "answers": AnswerShare(),
}
"""By the `type` of the spec, in the order in which the report shows their predictions."""


def cases(
    spec: EvaluateSpec, parents: Mapping[str, Artifact], subject: Subject, store: Store
) -> Iterator[tuple[Check[Any], Case[Any]]]:
    """Every check of the job on one model."""
    for number, check in enumerate(spec.checks):
        start = f"checks.{number}."
        named = {path.removeprefix(start): parent for path, parent in parents.items() if path.startswith(start)}
        rows_of = named.get("rows_of") or named.get("task_files")
        yield CHECKS[check.type], Case(check, subject, rows_of, spec.micro_batch_sequences, store, named)
