"""The table of job kinds: the code that runs, plans and reports each of them.

Code is named as `module:function` and imported only when it is called, so that reading and checking job files is fast.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayloom.specs.base import JobSpec
from rayloom.specs.clean import CleanSpec
from rayloom.specs.evaluate import EvaluateSpec
from rayloom.specs.export import MergeSpec, QuantizeSpec
from rayloom.specs.ingest import ImportSpec
from rayloom.specs.pipeline import PipelineSpec
from rayloom.specs.predict import PredictSpec
from rayloom.specs.serve import ServeSpec
from rayloom.specs.train import TrainSpec
from rayloom.specs.tune import TuneSpec


@dataclass(frozen=True)
class Kind:
    """One kind of job."""

    spec: type[JobSpec]
    stage: str
    """`(spec, Build) -> Outcome`: makes the artifact."""
    planner: str
    """`(spec, parents by dotted path, job directory) -> PlanSheet`: what is known before the job runs."""
    reporter: str
    """`(Artifact) -> list[Section]`: the artifact's part of the HTML report."""
    version: int
    """Increased if the stage's code gives another result for the same spec: old results are then not reused."""
    settle: str | None = None
    """`(spec, parents) -> spec`: fills in the values that the job takes from one of its parents."""
    prober: str | None = None
    """`(spec, parents, job directory) -> PlanSheet`: what `plan --probe` measures on this machine."""
    foreground: str | None = None
    """`(spec, parents, job directory) -> None`: runs a job that makes no artifact and ends when it is stopped."""


KINDS: dict[str, Kind] = {
    "import": Kind(ImportSpec, "rayloom.ingest.run:run", "rayloom.ingest.plan:plan", "rayloom.ingest.plan:sections", 1),
    "clean": Kind(CleanSpec, "rayloom.data.run:run", "rayloom.data.plan:plan", "rayloom.data.report:sections", 4),
    "train": Kind(
        TrainSpec,
        "rayloom.train.run:run",
        "rayloom.train.plan:plan",
        "rayloom.train.report:sections",
        3,
        settle="rayloom.tune.results:with_best_values",
        prober="rayloom.train.planning.probe:probe",
    ),
    "tune": Kind(TuneSpec, "rayloom.tune.run:run", "rayloom.tune.plan:plan", "rayloom.tune.report:sections", 3),
    "evaluate": Kind(
        EvaluateSpec, "rayloom.evaluate.run:run", "rayloom.evaluate.plan:plan", "rayloom.evaluate.report:sections", 1
    ),
    "predict": Kind(
        PredictSpec,
        "rayloom.evaluate.prediction.run:run",
        "rayloom.evaluate.prediction.plan:plan",
        "rayloom.evaluate.prediction.plan:sections",
        2,
    ),
    "merge": Kind(
        MergeSpec, "rayloom.export.merge:run", "rayloom.export.plan:plan_merge", "rayloom.export.report:sections", 2
    ),
    "quantize": Kind(
        QuantizeSpec,
        "rayloom.export.quantize:run",
        "rayloom.export.plan:plan_quantize",
        "rayloom.export.report:sections",
        2,
    ),
    "serve": Kind(
        ServeSpec,
        "rayloom.serve.run:check",
        "rayloom.serve.plan:plan",
        "rayloom.serve.report:sections",
        2,
        foreground="rayloom.serve.run:serve_until_stopped",
    ),
}

SPECS: dict[str, type[JobSpec]] = {name: kind.spec for name, kind in KINDS.items()} | {"pipeline": PipelineSpec}


def imported(code: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    module, _, function = code.partition(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
