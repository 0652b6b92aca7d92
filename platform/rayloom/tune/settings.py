"""A search's best values put into a training job that asks for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rayloom.artifacts.store import Artifact
from rayloom.errors import InputError, SpecError
from rayloom.specs.search.space import refusals, substituted
from rayloom.specs.train import TrainSpec
from rayloom.tune.results import BEST_VALUES_NAME


def best_values(search: Artifact) -> dict[str, Any]:
    """Dotted path and value of all that the search varied. Raises InputError where the artifact is no search."""
    file = search.path / BEST_VALUES_NAME
    if not file.exists():
        what = f"settings_from needs a search, but {search.id} is a {search.manifest.kind}"
        raise InputError(what, where=str(search.path), fix="Name an artifact that a `tune` job made.")
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["values"]
    return values


def with_best_values(spec: TrainSpec, parents: Mapping[str, Artifact]) -> TrainSpec:
    """The job as it runs, with the values of the search that it names, if it names one.

    Raises SpecError if it refuses a value: it is too unlike the job that was searched.
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
