"""`kind: predict`: a model's prediction for every row of a data set."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Bundle, JobSpec, OutsideFiles, RowsRef, Share, TunedRef
from rayloom.specs.prompting import RowPrompt
from rayloom.specs.row_files import RowFiles
from rayloom.specs.text_generation import Generation


class PredictSpec(JobSpec, RowFiles):
    """Predicts labels, entities or answers for rows, in parts; a resumed job does not repeat finished parts.

    Rows are read from CSV, TSV, JSON, JSON lines, Parquet and Arrow files; in any other file, every line is a text.
    """

    kind: Literal["predict"]
    model: TunedRef
    """The model or adapter that answers."""
    data: RowsRef
    """The data set whose rows are answered."""
    text: str = "text"
    """Column of the text; of a question, of what it is asked about."""
    pair: str | None = None
    """Column of the second text, or of the question."""
    keep: tuple[str, ...] = ()
    """Columns to take over into the predictions."""
    limit_rows: Annotated[int, Field(ge=1)] | None = None
    """At most so many rows, spread evenly over all, since data sets are often sorted by label or by source. All are
    read once more to count them; to read less, name fewer `files`."""
    generation: Generation = Generation()
    """How a model without a task writes its answers."""
    prompt: RowPrompt | None = None
    """Ask a language model for a task's answers by this prompt. Default: each text is a user's message."""
    rows_per_part: Annotated[int, Field(ge=1)] = 500
    """Rows in one part; at most so many are computed again, for each worker, after the job was killed."""
    micro_batch_sequences: Annotated[int, Field(ge=1)] = 16
    """Rows that one worker computes at once."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    """Workers that answer side by side, each with the model loaded."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """CPUs that each worker uses."""
    gpus_per_worker: Literal[0, 1] = 0
    """GPUs that each worker uses; 0 computes on the CPU."""
    max_failed_share: Share = 0.1
    """Part of the rows that may fail, each kept with its reason; the job fails if there are more."""

    def bundles(self) -> list[Bundle]:
        return [Bundle(self.cpus_per_worker, self.gpus_per_worker)] * self.num_workers

    def outside_files(self) -> Iterator[OutsideFiles]:
        if self.prompt is not None:
            yield from self.prompt.files_of("prompt")

    @model_validator(mode="after")
    def _the_part_is_the_hubs(self) -> Self:
        self.check_part(self.data)
        return self
