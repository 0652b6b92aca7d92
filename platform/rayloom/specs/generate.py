"""`kind: generate`: data that a model writes, filtered, each row with what wrote it and from what."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Bundle, JobSpec, OutsideFiles, Share, Spec
from rayloom.specs.generation.engines import Engine, Sampling
from rayloom.specs.generation.filters import GenerateFilters
from rayloom.specs.generation.tasks import BestOfTask, GenerateTask, PairsTask, SelfInstructTask
from rayloom.specs.row_files import SourceOfRows, files_at_uris
from rayloom.specs.training.rewards import Rewards, files_of_rewards


class Patience(Spec):
    """When generating stops before all rows are there."""

    num_candidates: Annotated[int, Field(ge=1)] = 500
    """The last so many candidates are looked at, between two rounds."""
    min_kept_share: Share = 0.02
    """If fewer of them were kept, new instructions only repeat, or nothing usable is written, and the job stops."""


class GenerateSpec(JobSpec):
    """Has a model write a data set: new instructions, answers, labels, preference pairs or paraphrases.

    A job that was stopped goes on where it was: no answer is asked for twice. Its rows are in rows.jsonl, what was
    dropped and why in dropped.jsonl.
    """

    kind: Literal["generate"]
    engine: Engine
    """What writes: a model of the store, or an endpoint."""
    judge: Engine | None = None
    """What judges, in tasks best_of and pairs. Default: the engine itself."""
    task: GenerateTask
    """What is written, and from what."""
    sampling: Sampling = Sampling()
    """How answers are drawn."""
    system: str | None = None
    """System message before every prompt. Default: whatever the chat template or endpoint does by itself."""
    prompts: str | None = None
    """Folder with prompts of your own: a file NAME.jinja there takes the place of the shipped one of this name. Results
    hold the prompts that they used, in prompts/: copy and edit these."""
    filters: GenerateFilters = GenerateFilters()
    """Why instructions and rows are dropped."""
    patience: Patience = Patience()
    """When to stop early."""
    min_rows: Annotated[int | None, Field(ge=1), "unfingerprinted"] = None
    """A job that stops early is finished if it has so many rows; else it fails with samples, and keeps its work.
    Default: one that stops early always fails."""
    rows_per_round: Annotated[int, Field(ge=1)] | None = None
    """Rows, or prompts for new instructions, that are asked for together: an engine is full while a round lasts, and
    what was kept counts for the next. Default: 1000; in self_instruct 100."""

    def bundles(self) -> list[Bundle]:
        return [*self.engine.bundles(), *(self.judge.bundles() if self.judge is not None else ())]

    @property
    def round_rows(self) -> int:
        """`rows_per_round`, or its default for the task."""
        return self.rows_per_round or (100 if isinstance(self.task, SelfInstructTask) else 1000)

    @property
    def source(self) -> SourceOfRows:
        """The given rows or seeds."""
        return self.task.seeds if isinstance(self.task, SelfInstructTask) else self.task.data

    @property
    def source_path(self) -> str:
        """Dotted path of `source`."""
        return "task.seeds" if isinstance(self.task, SelfInstructTask) else "task.data"

    @property
    def rewards(self) -> Rewards | tuple[()]:
        """What gives points in tasks best_of and pairs; empty if the judge is asked."""
        return self.task.rewards or () if isinstance(self.task, BestOfTask | PairsTask) else ()

    def outside_files(self) -> Iterator[OutsideFiles]:
        if self.prompts is not None:
            yield OutsideFiles("prompts", self.prompts, "*.jinja")
        yield from files_of_rewards("task.rewards", self.rewards)
        for found in files_at_uris(self.source_path, (self.source,)):
            yield OutsideFiles(f"{self.source_path}.uri", found.location, found.pattern, found.subset, found.split)

    @model_validator(mode="after")
    def _judge_is_asked(self) -> Self:
        if self.judge is not None and not isinstance(self.task, BestOfTask | PairsTask):
            raise ValueError(f"a judge is asked in tasks best_of and pairs only, not in {self.task.type}")
        if self.judge is not None and self.rewards:
            raise ValueError("either the judge or task.rewards judge the answers")
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if getattr(self.task, "num_samples", 1) > 1 and not self.sampling.temperature:
            raise ValueError("several samples at temperature 0 are all the same; raise sampling.temperature")
        return self
