"""Trials of a search over prompts: one model, loaded once, answers the same rows asked in many ways."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rayloom.artifacts.store import Artifact, Store
from rayloom.evaluate.checks.registry import cases
from rayloom.models.responders.subject import Subject
from rayloom.specs.evaluate import EvaluateSpec
from rayloom.specs.search.prompts import prompt_metrics
from rayloom.specs.search.space import Values, substituted
from rayloom.specs.tune import TuneSpec
from rayloom.tune.trials.speed_trials import MeasuredTrials, parents_of_trial


class PromptTrials(MeasuredTrials):
    """Checks of type prompted, each time with another prompt."""

    def __init__(self, spec: TuneSpec, parents: Mapping[str, Artifact], store: Store) -> None:
        self._spec, self._parents, self._store = spec, parents_of_trial(spec, parents, {}), store
        self._subject = Subject.of("model", self._parents["model"], store)

    def measure(self, number: int, values: Values) -> dict[str, float]:  # noqa: ARG002
        job = EvaluateSpec.model_validate_json(json.dumps(substituted(self._spec.plain_job, values)), strict=True)
        found: dict[str, float] = {}
        for check, case in cases(job, self._parents, self._subject, self._store):
            check.ready(case)
            metrics = check.measure(case).metrics
            found |= {f"checks.{case.spec.name}.{key}": value for key, value in metrics.items()}
        return {name: float(found[name]) for name in prompt_metrics(job) if name in found}
