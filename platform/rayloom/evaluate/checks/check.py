"""What a check is: it says whether it can run, measures one model, judges its limits and shows what it found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError
from rayloom.models.loading import check_causal
from rayloom.models.responders.subject import Subject
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.report_page import Section
from rayloom.score.class_scores import Part
from rayloom.specs.base import Spec

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Measured:
    """One check on one model."""

    metrics: dict[str, Any]
    predictions: list[dict[str, Any]] = field(default_factory=list)
    """What the model said, for reading: one mapping for each prompt or text, with the check's name as `check`."""
    parts: list[Part] = field(default_factory=list)
    """What each text adds to `metrics["score"]`, so that two models can be compared text by text."""


Results = dict[str, dict[str, Measured]]
"""Check -> role (`model`, `baseline`, `earlier.0`) -> what was measured."""


@dataclass(frozen=True)
class Limit:
    """One limit of the spec and what was found."""

    check: str
    limit: str
    """The field of the spec: `min_share`."""
    wanted: float
    found: float
    is_met: bool
    sentence: str
    """What was found, in words."""


@dataclass(frozen=True)
class Case(Generic[S]):
    """A check of a job on one of the models that it compares."""

    spec: S
    subject: Subject
    rows_of: Artifact | None
    """Whose held-out rows or task files are used."""
    micro_batch_sequences: int
    store: Store | None = None
    """Where the data behind `rows_of` is looked for."""
    parents: Mapping[str, Artifact] = field(default_factory=dict)
    """All artifacts that the check names, by their field's path in it."""

    @property
    def rows(self) -> Artifact:
        if self.rows_of is None:
            raise ValueError("this check needs the artifact that holds the rows")
        return self.rows_of


class Check(ABC, Generic[S]):
    """One type of check. `metrics`: of one model, as `measure` gave them and the manifest keeps them."""

    is_better_higher: ClassVar[bool] = True
    """Whether a larger `figure` is a better one."""

    @abstractmethod
    def ready(self, case: Case[S]) -> None:
        """Raises InputError for whatever would stop the check once the model is loaded."""

    @abstractmethod
    def plan(self, case: Case[S], sheet: PlanSheet) -> None:
        """Adds the check's size to the sheet of `rayloom plan`."""

    @abstractmethod
    def measure(self, case: Case[S]) -> Measured:
        """Runs the check on one model. Raises InputError where its data cannot be used."""

    @abstractmethod
    def limits(self, spec: S, by_role: Mapping[str, Measured]) -> list[Limit]:
        """The check's limits, met or not, from what was measured on the `model` and on a `baseline`."""

    @abstractmethod
    def shown(self, metrics: Mapping[str, Any]) -> str:
        """The result in a few words, for tables."""

    @abstractmethod
    def figure(self, metrics: Mapping[str, Any]) -> tuple[str, float]:
        """What is measured, and how much of it there is, for dashboards."""

    def short(self, metrics: Mapping[str, Any]) -> str:
        """The result in still fewer words than `shown`, for the artifact's headline."""
        return f"{self.figure(metrics)[1]:.3f}"

    def sections(self, title: str, metrics: Mapping[str, Any], better: Mapping[str, Any]) -> list[Section]:  # noqa: ARG002
        """What the report says of one model. `better`: `difference` and `difference_interval`, if they are known."""
        return []

    @staticmethod
    def texts(predictions: Sequence[Mapping[str, Any]]) -> list[Section]:  # noqa: ARG004
        """What the report shows of the predictions of all checks that have this function."""
        return []


def check_goes_on_with_text(name: str, subject: Subject) -> None:
    """Raises InputError where the model answers with labels, or is no causal language model."""
    if subject.task is not None:
        what = f"{subject.artifact_id} answers with labels, and the check {name} wants text"
        raise InputError(what, where=f"checks {name}", fix="Use a check of type task.")
    check_causal(subject.base)
