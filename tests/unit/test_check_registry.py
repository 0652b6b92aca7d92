"""A type of check is a spec, a file and a line: everything that speaks of checks reads the one registry."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from support.models import made, write_model

from rayloom.artifacts.build import Build, ResolvedJob, build
from rayloom.artifacts.store import Artifact, Store
from rayloom.errors import InputError, QualityError
from rayloom.evaluate import plan, report, run
from rayloom.evaluate.checks import registry
from rayloom.evaluate.checks.check import Case, Check, Limit, Measured
from rayloom.models.weight_files import stored_tensors
from rayloom.observe import ray_metrics
from rayloom.observe.plan_sheet import PlanSheet
from rayloom.observe.report_page import Section, table
from rayloom.specs.base import Name, Spec
from rayloom.specs.evaluate import CHECK_METRICS, AnswersCheck, EvaluateSpec

# -- the toy: a spec with its place in the job, a class, and a line ----------------------------------------------------


class SizeCheck(Spec):
    """How many weights the model has."""

    type: Literal["size"]
    name: Name = "size"
    max_weights: int


class EvaluateWithToy(EvaluateSpec):
    checks: tuple[Annotated[AnswersCheck | SizeCheck, Field(discriminator="type")], ...]  # type: ignore[assignment]


class Size(Check[SizeCheck]):
    def ready(self, case: Case[SizeCheck]) -> None:
        if not (case.subject.base / "config.json").exists():
            raise InputError(f"{case.subject.artifact_id} has no weights to count")

    def plan(self, case: Case[SizeCheck], sheet: PlanSheet) -> None:
        sheet.add(case.spec.name, f"at most {case.spec.max_weights:,} weights")

    def measure(self, case: Case[SizeCheck]) -> Measured:
        weights = {name: tensor.num_values for name, tensor in stored_tensors(case.subject.base).items()}
        largest = max(weights, key=lambda name: weights[name])
        return Measured({"weights": sum(weights.values())}, [{"check": case.spec.name, "largest": largest}])

    def limits(self, spec: SizeCheck, by_role: Mapping[str, Measured]) -> list[Limit]:
        weights = by_role["model"].metrics["weights"]
        is_met = weights <= spec.max_weights
        return [Limit(spec.name, "max_weights", spec.max_weights, weights, is_met, f"{weights:,} weights")]

    def shown(self, metrics: Mapping[str, Any]) -> str:
        return f"{metrics['weights']:,} weights"

    def short(self, metrics: Mapping[str, Any]) -> str:
        return f"{metrics['weights']}w"

    def figure(self, metrics: Mapping[str, Any]) -> tuple[str, float]:
        return "weights", float(metrics["weights"])

    def sections(self, title: str, metrics: Mapping[str, Any], better: Mapping[str, Any]) -> list[Section]:
        return [Section(title, table(("weights",), [(metrics["weights"],)]))]

    @staticmethod
    def texts(predictions: Sequence[Mapping[str, Any]]) -> list[Section]:
        return [Section("Largest tensors", table(("by", "tensor"), [(p["role"], p["largest"]) for p in predictions]))]


@pytest.fixture(autouse=True)
def with_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.CHECKS, "size", Size())


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("RAYLOOM_STORE", str(tmp_path / "store"))
    return Store(str(tmp_path / "store"))


@pytest.fixture
def model(store: Store) -> Artifact:
    return made(store, "model", "model", write_model)


def spec(max_weights: int = 10**9) -> EvaluateWithToy:
    checks = [{"type": "size", "max_weights": max_weights}]
    values = {"kind": "evaluate", "name": "e", "model": "artifact:model", "baseline": "artifact:model"}
    return EvaluateWithToy.model_validate(values | {"checks": checks})


def evaluated(store: Store, model: Artifact, max_weights: int = 10**9) -> Artifact:
    parents = {"model": model, "baseline": model}

    def stage(job: Any, building: Build) -> Any:
        return run.run(job, building)

    return build(ResolvedJob(spec(max_weights), 1, parents, Path.cwd()), store, stage)[0]


def test_a_new_check_is_planned(store: Store, model: Artifact, tmp_path: Path) -> None:
    sheet = plan.plan(spec(), {"model": model}, tmp_path)
    assert dict(sheet.facts)["size"] == "at most 1,000,000,000 weights" and sheet.problems == []
    empty = made(store, "empty", "model", lambda folder: (folder / "a").write_text("a"))
    assert "has no weights to count" in plan.plan(spec(), {"model": empty}, tmp_path).problems[0]


def test_a_new_check_is_measured_shown_and_reported(store: Store, model: Artifact) -> None:
    artifact = evaluated(store, model)
    weights = sum(tensor.num_values for tensor in stored_tensors(model.path).values())
    metrics = artifact.manifest.metrics
    assert metrics["checks"] == {"size": {"model": {"weights": weights}, "baseline": {"weights": weights}}}
    assert metrics["limits"][0]["limit"] == "max_weights" and metrics["limits"][0]["is_met"]
    assert artifact.manifest.headline == f"size {weights}w (baseline {weights}w)"
    said = [json.loads(line) for line in (artifact.path / run.PREDICTIONS_NAME).read_text().splitlines()]
    assert [row["role"] for row in said] == ["model", "baseline"]
    shown = [(section.title, section.body) for section in report.sections(artifact)]
    assert [title for title, _ in shown] == ["Checks", "Limits", *[f"size: {model.id}"] * 2, "Largest tensors"]
    assert f"{weights:,} weights" in shown[0][1] and "embed_tokens" in shown[-1][1]


def test_a_new_checks_figures_are_told_to_dashboards(
    store: Store, model: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[ray_metrics.Score] = []
    monkeypatch.setattr(run, "is_on_cluster", lambda: True)
    monkeypatch.setattr(run, "connect", lambda: None)
    monkeypatch.setattr(ray_metrics, "tell_scores", told.extend)
    evaluated(store, model)
    assert [(score.model, score.check, score.measure) for score in told] == [(model.id, "e: size", "weights")] * 2


def test_a_new_checks_limit_stops_the_job(store: Store, model: Artifact) -> None:
    with pytest.raises(QualityError, match="weights, and max_weights is 1 "):
        evaluated(store, model, max_weights=1)


# -- the real ones -----------------------------------------------------------------------------------------------------


def test_every_check_of_the_spec_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry.CHECKS, "size")
    (entry, _) = typing.get_args(EvaluateSpec.model_fields["checks"].annotation)
    union = typing.get_args(entry)[0] if typing.get_origin(entry) is Annotated else entry
    types = {typing.get_args(check.model_fields["type"].annotation)[0] for check in typing.get_args(union)}
    assert set(registry.CHECKS) == types == set(CHECK_METRICS)
