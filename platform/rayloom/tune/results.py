"""The files that a search writes: all trials, the best job as a job file, and its values; and readers of them.

`with_best_values` puts the values of a finished search into a training job that refers to it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rayloom.artifacts.files import read_json_lines
from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError, SpecError
from rayloom.models.processor import machine_name
from rayloom.specs.base import Spec
from rayloom.specs.search.refusals import refusals
from rayloom.specs.search.space import substituted
from rayloom.specs.train import TrainSpec
from rayloom.specs.tune import TuneSpec
from rayloom.tune.strategies.history import Event, History, Trial
from rayloom.tune.strategies.points import point_of
from rayloom.tune.strategies.ranking import front

TRIALS_NAME = "trials.jsonl"
BEST_JOB_NAME = "best.yaml"
BEST_VALUES_NAME = "best_values.json"


def trial_record(trial: Trial) -> dict[str, Any]:
    """One line of `trials.jsonl`; NaN and infinities are null there."""
    return {
        "trial": trial.number,
        "outcome": trial.outcome,
        "reason": trial.reason,
        "values": trial.values,
        "point": trial.point,
        "step": trial.step,
        "metrics": _plain(trial.metrics),
        "measured": [{"step": step, **_plain(metrics)} for step, metrics in trial.reports],
        "created_at_seconds": round(trial.created_at_seconds, 2),
        "ended_at_seconds": None if trial.ended_at_seconds is None else round(trial.ended_at_seconds, 2),
        "busy_seconds": round(trial.busy_seconds, 2),
        "crashes": trial.crashes,
        "copies": [{"step": copy.step, "donor": copy.donor, "values": copy.values} for copy in trial.copies],
    }


def trial_of(record: Mapping[str, Any]) -> Trial:
    """The trial that `trial_record` wrote."""
    reports = [
        (line["step"], {name: value for name, value in line.items() if name != "step"}) for line in record["measured"]
    ]
    numbers = [
        (step, {k: math.nan if v is None else float(v) for k, v in metrics.items()}) for step, metrics in reports
    ]
    return Trial(
        record["trial"],
        dict(record["point"]),
        dict(record["values"]),
        record.get("created_at_seconds", 0.0),
        numbers,
        crashes=record["crashes"],
        outcome=record["outcome"],
        reason=record["reason"],
        ended_at_seconds=record["ended_at_seconds"],
        busy_seconds=record["busy_seconds"],
        copies=[
            Event("copied", 0.0, record["trial"], copy["step"], values=copy["values"], donor=copy["donor"])
            for copy in record["copies"]
        ],
    )


def read_trials(artifact: Artifact) -> list[Trial]:
    """The trials of a finished search. Raises InputError if the artifact is not that of a search."""
    path = artifact.path / TRIALS_NAME
    if not path.exists():
        what = f"{artifact.id} is a {artifact.manifest.kind}, not a search"
        raise InputError(what, where=str(artifact.path), fix="Name an artifact that a `tune` job made.")
    return [trial_of(record) for record in read_json_lines(path)]


def earlier_trials(spec: TuneSpec, searches: Sequence[Artifact]) -> list[Trial]:
    """The trials of earlier searches whose values are points of this space; the searcher can learn from them."""
    trials = []
    for artifact in searches:
        for trial in read_trials(artifact):
            point = point_of(spec.space, trial.values, spec.plain_job)
            if point is not None and trial.outcome is not None and trial.outcome != "cut_off":
                trial.point = point
                trials.append(trial)
    return trials


def write_trials(directory: Path, history: History) -> None:
    lines = [json.dumps(trial_record(trial), ensure_ascii=False) for trial in history.trials.values()]
    (directory / TRIALS_NAME).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_best(directory: Path, spec: TuneSpec, trial: Trial, parents: Mapping[str, Artifact]) -> None:
    """Writes the best trial's job as a file for `rayloom run`, and its values alone as JSON.

    `parents`: the artifacts of the trial's job, by dotted path in it.
    """
    job = substituted(spec.plain_job, trial.values)
    job |= {"name": f"{spec.name[:57]}-best", "description": ""}
    for path, artifact in parents.items():
        job = substituted(job, {path: f"artifact:{artifact.id}"})
    text = "".join(f"# {line}\n" for line in _comment(spec, trial))
    readable = _readable(type(spec.job).model_validate_json(json.dumps(job), strict=True))
    text += yaml.safe_dump(readable, sort_keys=False, allow_unicode=True, width=100)
    (directory / BEST_JOB_NAME).write_text(text, encoding="utf-8")
    best = {"trial": trial.number, "values": trial.values, "step": trial.step, "metrics": _plain(trial.metrics)}
    (directory / BEST_VALUES_NAME).write_text(json.dumps(best, indent=2) + "\n", encoding="utf-8")


def is_reproducible(trial: Trial) -> bool:
    """Whether running the trial's job gives its metrics again: not if it was cut off or copied another's weights."""
    return trial.outcome == "finished" and not trial.copies


def _comment(spec: TuneSpec, trial: Trial) -> list[str]:
    measured = ", ".join(f"{o.metric} {trial.metrics.get(o.metric, math.nan):.6g}" for o in spec.objectives)
    if spec.measures_speed:
        return [f"Trial {trial.number} of the search {spec.name}: {measured}, on {spec.hardware}."]
    if spec.evaluate is not None:
        return [
            f"Trial {trial.number} of the search {spec.name}: {measured}.",
            "It was chosen by these rows, so that its score on others is likely to be lower.",
        ]
    lines = [f"Trial {trial.number} of the search {spec.name}: {measured} at step {trial.step}."]
    if trial.copies:
        lines.append("Its values changed on the way and its weights came from others (trials.jsonl says when);")
        lines.append("this file has the last values, so that its own run gives another result.")
    elif trial.outcome != "finished":
        lines.append("The budget cut it off there; this file runs the whole length.")
    else:
        lines.append("On the same kind of machine this file gives the same numbers.")
    return lines


def summary(spec: TuneSpec, history: History, winner: Trial) -> dict[str, Any]:
    """The artifact's metrics."""
    outcomes = Counter(str(trial.outcome) for trial in history.trials.values())
    cost = spec.budget.cost_of(history.seconds)
    return {
        "objectives": [{"metric": o.metric, "goal": "minimise" if o.sign > 0 else "maximise"} for o in spec.objectives],
        "best": {
            "trial": winner.number,
            "values": winner.values,
            "step": winner.step,
            "metrics": _plain(winner.metrics),
            "outcome": winner.outcome,
            "is_reproducible": is_reproducible(winner),
        },
        "front": [trial.number for trial in front(spec, history.trials.values())],
        "num_trials": len(history.trials),
        "outcomes": dict(sorted(outcomes.items())),
        "num_steps": history.num_steps,
        "seconds": round(history.seconds, 2),
        "sessions": history.sessions,
        **({} if cost is None else {"cost": round(cost, 4)}),
    }


def headline(spec: TuneSpec, history: History, winner: Trial) -> str:
    measured = ", ".join(f"{o.metric} {winner.metrics.get(o.metric, math.nan):.4g}" for o in spec.objectives)
    values = ", ".join(f"{path} {shown(value)}" for path, value in winner.values.items())
    num_failed = sum(trial.outcome == "failed" for trial in history.trials.values())
    failed = f" ({num_failed} failed)" if num_failed else ""
    return f"trial {winner.number} of {len(history.trials)}{failed}: {measured} with {values}"


def shown(value: Any) -> str:
    """A value as text for tables."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(entry)}" for key, entry in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _readable(spec: Spec) -> dict[str, Any]:
    """The spec with its defaults written out, but without fields that are empty or null by default."""
    plain = spec.model_dump(mode="json", by_alias=True)
    return {key: value for key, value in _filled(spec, plain).items() if value != ""}


def _filled(spec: Spec, plain: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, info in type(spec).model_fields.items():
        key, value = info.alias or name, getattr(spec, name)
        if value is None and info.default is None:
            continue
        kept[key] = _filled(value, plain[key]) if isinstance(value, Spec) else plain[key]
        if isinstance(value, tuple) and any(isinstance(item, Spec) for item in value):
            kept[key] = [_filled(item, entry) for item, entry in zip(value, plain[key], strict=True)]
    return kept


def on_this_machine(spec: TuneSpec, parents: Mapping[str, Artifact]) -> TuneSpec:  # noqa: ARG001
    """The search; if it measures speed, with the machine's name, so that another machine's result is not taken for its.

    Raises SpecError if the file names another machine.
    """
    if not spec.measures_speed:
        return spec
    here = machine_name()
    if spec.hardware not in (None, here):
        what = f"The search {spec.name} is for {spec.hardware}, and this machine is {here}"
        raise SpecError(what, where="hardware", fix="Run it there, or leave `hardware` out.")
    return spec.model_copy(update={"hardware": here})


# The best values of a search, put into a training job that refers to it (`settings_from`).


def best_values(search: Artifact) -> dict[str, Any]:
    """The best value of each searched field, by dotted path. Raises InputError if the artifact is not a search's."""
    file = search.path / BEST_VALUES_NAME
    if not file.exists():
        what = f"settings_from needs a search, but {search.id} is a {search.manifest.kind}"
        raise InputError(what, where=str(search.path), fix="Name an artifact that a `tune` job made.")
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["values"]
    return values


def with_best_values(spec: TrainSpec, parents: Mapping[str, Artifact]) -> TrainSpec:
    """The job with the best values of the search that it names, if it names one.

    Raises SpecError if the job does not accept a value, because it differs too much from the job that was searched.
    """
    if spec.settings_from is None:
        return spec
    search = parents["settings_from"]
    values = best_values(search)
    plain = spec.model_dump(mode="json", by_alias=True)
    problems = refusals(TrainSpec, plain, values)
    if problems:
        what = f"The best values of {search.id} do not fit the training job {spec.name}"
        raise SpecError(what, where="settings_from", fix="Search over this job.", problems=tuple(problems))
    return TrainSpec.model_validate_json(json.dumps(substituted(plain, values)), strict=True)
