"""`kind: evaluate`: every check on the model and the baseline, a table, predictions to read, limits that can fail."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from rayloom.artifacts.build import Build
from rayloom.artifacts.manifest import Outcome
from rayloom.errors import QualityError
from rayloom.evaluate.checks.check import Limit, Measured, Results
from rayloom.evaluate.checks.registry import CHECKS, cases
from rayloom.evaluate.sequence import sequence_headline, sequence_metrics, stage_name
from rayloom.models.responders.subject import subjects
from rayloom.observe.progress import console
from rayloom.observe.ray_session import connect, is_on_cluster
from rayloom.score.class_scores import of_difference
from rayloom.specs.evaluate import EvaluateSpec

PREDICTIONS_NAME = "predictions.jsonl"
"""One line for each prompt, model by model, in an evaluation's artifact."""


def run(spec: EvaluateSpec, build: Build) -> Outcome:
    """The report artifact of models that keep the spec's limits.

    Raises QualityError where a limit is broken: nothing is published then, but the predictions stay in the build's
    folder for reading, which without a manifest is no artifact and is cleared by the next run.
    """
    results = _measured(spec, build)
    _write_predictions(results, build.directory / PREDICTIONS_NAME)
    checked = [limit for check in spec.checks for limit in CHECKS[check.type].limits(check, results[check.name])]
    console().print(comparison_table(spec, results, checked))
    if is_on_cluster():
        _tell_scores(spec, build, results)
    _raise_where_broken(spec, checked, build.directory / PREDICTIONS_NAME)
    ids = {role: build.parents[role].id for role in spec.compared}
    checks = {name: {role: measured.metrics for role, measured in by_role.items()} for name, by_role in results.items()}
    checks = {name: measured | differences(results[name]) for name, measured in checks.items()}
    metrics = {**ids, "checks": checks, "limits": [asdict(limit) for limit in checked]}
    if spec.stages:
        metrics["sequence"] = sequence_metrics(spec, results)
    return Outcome("report", metrics, headline=_headline(spec, results))


def _measured(spec: EvaluateSpec, build: Build) -> Results:
    """One model after the other, so that only one is in memory."""
    results: Results = {check.name: {} for check in spec.checks}
    compared = subjects(build.parents, build.store)
    for subject in compared:
        for check, case in cases(spec, build.parents, subject, build.store):
            check.ready(case)
    for subject in compared:
        for check, case in cases(spec, build.parents, subject, build.store):
            results[case.spec.name][subject.role] = check.measure(case)
        subject.release()
    return results


def _tell_scores(spec: EvaluateSpec, build: Build, results: Results) -> None:
    """Shows the cluster's dashboards what each model is worth, also one that breaks a limit."""
    from rayloom.observe.ray_metrics import Score, tell_scores

    connect()
    tell_scores(
        [
            Score(build.parents[role].id, f"{spec.name}: {check.name}", *CHECKS[check.type].figure(measured.metrics))
            for check in spec.checks
            for role, measured in results[check.name].items()
        ]
    )


def _write_predictions(results: Results, file: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"role": role, **prediction}
        for by_role in results.values()
        for role, measured in by_role.items()
        for prediction in measured.predictions
    ]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def comparison_table(spec: EvaluateSpec, results: Results, checked: Sequence[Limit]) -> Table:
    """Check by check: before, after, and whether the limits are kept."""
    roles = spec.compared
    table = Table("check", *map(stage_name, roles), "limit", title=spec.name, title_justify="left")
    for check in spec.checks:
        shown, by_role = CHECKS[check.type].shown, results[check.name]
        of_check = [limit for limit in checked if limit.check == check.name]
        kept = ", ".join(f"{item.limit} {item.wanted:g}: {'kept' if item.is_met else 'BROKEN'}" for item in of_check)
        table.add_row(check.name, *(shown(by_role[role].metrics) for role in roles), kept or "none")
    return table


def differences(by_role: Mapping[str, Measured]) -> dict[str, Any]:
    """How much better the model's score is than the baseline's, with a 95 % interval over the same texts."""
    model, baseline = by_role["model"], by_role.get("baseline")
    if baseline is None or not model.parts or len(model.parts) != len(baseline.parts):
        return {}
    difference = round(model.metrics["score"] - baseline.metrics["score"], 6)
    return {"difference": difference, "difference_interval": of_difference(model.parts, baseline.parts).as_metrics()}


def _raise_where_broken(spec: EvaluateSpec, checked: Sequence[Limit], predictions: Path) -> None:
    broken = [limit for limit in checked if not limit.is_met]
    if broken:
        sentences = "; ".join(f"{limit.sentence}, and {limit.limit} is {limit.wanted:g}" for limit in broken)
        what = f"{len(broken)} of {len(checked)} limits of {spec.name} are broken: {sentences}"
        fix = "Read what the model said there; then train further, or change the limit."
        raise QualityError(what, where=str(predictions), fix=fix)


def _headline(spec: EvaluateSpec, results: Results) -> str:
    parts = [sequence_headline(sequence_metrics(spec, results))] if spec.stages else []
    for check in spec.checks:
        short, by_role = CHECKS[check.type].short, results[check.name]
        before = f" (baseline {short(by_role['baseline'].metrics)})" if "baseline" in by_role else ""
        parts.append(f"{check.name} {short(by_role['model'].metrics)}{before}")
    return ", ".join(parts)
