"""The table of job kinds: the spec, and the code that runs, plans and reports each of them.

Code is named as `module:name` and imported only when it is used: reading a job file loads the spec of its kind alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayloom.specs.base import JobSpec


@dataclass(frozen=True)
class Kind:
    """One kind of job."""

    spec: str
    """Class of its job files."""
    stage: str
    """`(spec, Build) -> Outcome`: makes the artifact."""
    planner: str
    """`(spec, parents by dotted path, job directory) -> PlanSheet`: what is known before the job runs."""
    reporter: str
    """`(Artifact) -> list[Section]`: the artifact's part of the HTML report."""
    version: int
    """Increased if the stage's code gives another result for the same spec: old results are then not reused."""
    settle: str | None = None
    """`(spec, parents) -> spec`: fills in the values that the job takes from a parent, the store or the machine."""
    prober: str | None = None
    """`(spec, parents, job directory) -> PlanSheet`: what `plan --probe` measures on this machine."""
    whole_planner: str | None = None
    """Of a kind whose `planner` looks at a sample of the data: the one of `plan --all`, which looks at everything."""
    foreground: str | None = None
    """`(spec, parents, job directory) -> None`: runs a job that makes no artifact and ends when it is stopped."""


KINDS: dict[str, Kind] = {
    "import": Kind(
        "rayloom.specs.ingest:ImportSpec",
        "rayloom.ingest.run:run",
        "rayloom.ingest.plan:plan",
        "rayloom.ingest.plan:sections",
        2,
    ),
    "clean": Kind(
        "rayloom.specs.clean:CleanSpec",
        "rayloom.data.run:run",
        "rayloom.data.plan:plan",
        "rayloom.data.report:sections",
        4,
    ),
    "generate": Kind(
        "rayloom.specs.generate:GenerateSpec",
        "rayloom.generate.run:run",
        "rayloom.generate.plan:plan",
        "rayloom.generate.report:sections",
        3,
    ),
    "compare": Kind(
        "rayloom.specs.compare:CompareSpec",
        "rayloom.generate.comparing.run:run",
        "rayloom.generate.comparing.plan:plan",
        "rayloom.generate.comparing.report:sections",
        2,
    ),
    "train": Kind(
        "rayloom.specs.train:TrainSpec",
        "rayloom.train.run:run",
        "rayloom.train.plan:plan",
        "rayloom.train.report:sections",
        3,
        settle="rayloom.tune.results:with_best_values",
        prober="rayloom.train.planning.probe:probe",
        whole_planner="rayloom.train.plan:plan_all",
    ),
    "tune": Kind(
        "rayloom.specs.tune:TuneSpec",
        "rayloom.tune.run:run",
        "rayloom.tune.plan:plan",
        "rayloom.tune.report:sections",
        3,
        settle="rayloom.tune.results:on_this_machine",
        whole_planner="rayloom.tune.plan:plan_all",
    ),
    "evaluate": Kind(
        "rayloom.specs.evaluate:EvaluateSpec",
        "rayloom.evaluate.run:run",
        "rayloom.evaluate.plan:plan",
        "rayloom.evaluate.report:sections",
        1,
    ),
    "predict": Kind(
        "rayloom.specs.predict:PredictSpec",
        "rayloom.evaluate.prediction.run:run",
        "rayloom.evaluate.prediction.plan:plan",
        "rayloom.evaluate.prediction.plan:sections",
        3,
    ),
    "merge": Kind(
        "rayloom.specs.export:MergeSpec",
        "rayloom.export.merge:run",
        "rayloom.export.plan:plan_merge",
        "rayloom.export.report:sections",
        2,
    ),
    "quantize": Kind(
        "rayloom.specs.export:QuantizeSpec",
        "rayloom.export.quantize:run",
        "rayloom.export.plan:plan_quantize",
        "rayloom.export.report:sections",
        2,
    ),
    "serve": Kind(
        "rayloom.specs.serve:ServeSpec",
        "rayloom.serve.run:check",
        "rayloom.serve.plan:plan",
        "rayloom.serve.report:sections",
        3,
        settle="rayloom.serve.found_engines:with_found_engines",
        foreground="rayloom.serve.run:serve_until_stopped",
    ),
}

FURTHER_REPORTERS = {"rate": "rayloom.ui.rating.report:sections"}
"""Of artifacts that no job file makes."""


def reporter_of(kind: str) -> str | None:
    """The code that reports an artifact of a kind."""
    return KINDS[kind].reporter if kind in KINDS else FURTHER_REPORTERS.get(kind)


def imported(code: str) -> Any:
    """The function or class that `module:name` names."""
    module, _, name = code.partition(":")
    return getattr(importlib.import_module(module), name)


class _Specs(Mapping[str, "type[JobSpec]"]):
    """The spec of each kind by name, imported when it is asked for."""

    def __getitem__(self, kind: str) -> type[JobSpec]:
        code = _PIPELINE if kind == "pipeline" else KINDS[kind].spec
        return imported(code)  # type: ignore[no-any-return]

    def __contains__(self, kind: object) -> bool:
        return kind in list(self)  # without importing its spec

    def __iter__(self) -> Iterator[str]:
        return iter((*KINDS, "pipeline"))

    def __len__(self) -> int:
        return len(KINDS) + 1


_PIPELINE = "rayloom.specs.pipeline:PipelineSpec"
SPECS: Mapping[str, type[JobSpec]] = _Specs()
