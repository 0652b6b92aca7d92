"""What a pipeline's stages make and need, checked before the first of them starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayloom.errors import SpecError
from rayloom.specs.base import references
from rayloom.specs.load import Job
from rayloom.specs.pipeline import Stage


@dataclass(frozen=True)
class StageJob:
    """One stage and the job file that it runs."""

    stage: Stage
    job: Job


def check_graph(stages: Sequence[StageJob], source: str) -> None:
    """Raises SpecError where two stages make one artifact, or a stage uses what a stage outside its needs makes.

    `stages` stand in the order in which they run.
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


def _all_needs(stages: Sequence[StageJob]) -> dict[str, set[str]]:
    """For each stage every stage that comes before it along `needs`."""
    before: dict[str, set[str]] = {}
    for item in stages:
        before[item.stage.name] = set(item.stage.needs).union(*(before[need] for need in item.stage.needs))
    return before
