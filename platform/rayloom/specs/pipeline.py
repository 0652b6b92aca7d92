"""`kind: pipeline`: several job files as one dependency graph."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import JobSpec, Name, Spec, refuse_repeated


class Stage(Spec):
    """One job of a pipeline."""

    name: Name
    """Name of the stage, which `needs` of other stages refers to."""
    job: str
    """The job file; relative paths start at the pipeline's file."""
    needs: tuple[Name, ...] = ()
    """Stages that must be finished first."""
    set: tuple[str, ...] = ()
    """Overrides for this stage, each `path.to.field=value`."""


class PipelineSpec(JobSpec):
    """Stages with their dependencies; a stage whose result is in the store already is not run again."""

    kind: Literal["pipeline"]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """The jobs; each starts as soon as the stages that it needs are finished."""
    max_parallel_stages: Annotated[int, Field(ge=1), "unfingerprinted"] = 1
    """Stages that do not need each other run beside each other, so many at once, each as a process of its own."""
    next_steps: Annotated[tuple[str, ...], "unfingerprinted"] = ()
    """Lines printed at the end, for the person who ran it."""

    @model_validator(mode="after")
    def _is_a_graph(self) -> Self:
        names = [stage.name for stage in self.stages]
        refuse_repeated(names, "stages")
        for stage in self.stages:
            unknown = sorted(set(stage.needs) - set(names))
            if unknown:
                raise ValueError(f"stage {stage.name} needs {', '.join(unknown)}, which is no stage of this pipeline")
        self.ordered()
        return self

    def ordered(self) -> tuple[Stage, ...]:
        """The stages in topological order. Raises ValueError with the names in a cycle if there is one."""
        done: list[Stage] = []
        waiting = list(self.stages)
        while waiting:
            names = {stage.name for stage in done}
            ready = [stage for stage in waiting if set(stage.needs) <= names]
            if not ready:
                raise ValueError(f"stages need each other in a circle: {', '.join(s.name for s in waiting)}")
            done.append(ready[0])
            waiting.remove(ready[0])
        return tuple(done)
