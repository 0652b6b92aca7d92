"""The dependency graph of a pipeline's stages, checked before the first of them starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayloom.errors import RayloomError, SpecError
from rayloom.specs.base import ArtifactReference, references
from rayloom.specs.files.load import Job
from rayloom.specs.pipeline import PipelineSpec, Stage

LoadJob = Callable[[Path, Sequence[str]], Job]


@dataclass(frozen=True)
class StageJob:
    """One stage and the job file that it runs."""

    stage: Stage
    job: Job


def load_stages(spec: PipelineSpec, pipeline: Job, load_job: LoadJob) -> list[StageJob]:
    """Every stage with its job, in topological order. Raises SpecError with the problems of all files at once."""
    stages: list[StageJob] = []
    problems: list[str] = []
    for stage in spec.ordered():
        try:
            stages.append(StageJob(stage, load_job(pipeline.directory / stage.job, stage.set)))
        except SpecError as error:
            problems += error.problems or (str(error),)
        except RayloomError as error:
            problems.append(f"stage {stage.name}: {error}")
    if problems:
        raise SpecError("Job files of this pipeline have problems", where=str(pipeline.file), problems=tuple(problems))
    check_graph(stages, str(pipeline.file))
    return stages


def check_graph(stages: Sequence[StageJob], source: str) -> None:
    """Raises SpecError if two stages make the same artifact, or a stage uses that of a stage it does not need.

    `stages` are in topological order.
    """
    makers: dict[str, str] = {}
    problems = []
    for item in stages:
        name = item.job.spec.name
        if name in makers:
            problems.append(f"stages {makers[name]} and {item.stage.name} both make {name}; rename one of them")
        makers.setdefault(name, item.stage.name)
    before = _all_needs(stages)
    for item in stages:
        for reference in references(item.job.spec):
            maker = makers.get(reference.text.removeprefix("artifact:"))
            if reference.text.startswith("artifact:") and maker and maker not in before[item.stage.name]:
                problems.append(
                    f"stage {item.stage.name} uses {reference.text} in {reference.path}, which stage {maker} makes; "
                    f"add {maker} to its needs"
                )
    if problems:
        raise SpecError("The stages do not fit together", where=source, problems=tuple(problems))


def outside_references(stages: Sequence[StageJob]) -> list[tuple[StageJob, ArtifactReference]]:
    """The artifacts that stages use and no stage makes: they must be in the store before the first stage runs."""
    made = {item.job.spec.name for item in stages}
    return [
        (item, reference)
        for item in stages
        for reference in references(item.job.spec)
        if reference.text.startswith("artifact:") and reference.text.removeprefix("artifact:") not in made
    ]


def _all_needs(stages: Sequence[StageJob]) -> dict[str, set[str]]:
    """For each stage, all that it needs directly or indirectly."""
    before: dict[str, set[str]] = {}
    for item in stages:
        before[item.stage.name] = set(item.stage.needs).union(*(before[need] for need in item.stage.needs))
    return before
