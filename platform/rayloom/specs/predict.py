"""`kind: predict`: a model's prediction for every row of a data set."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Bundle, JobSpec, RowsRef, Share, Spec, TunedRef
from rayloom.specs.row_files import RowFiles
from rayloom.specs.training.training_data import TemplateKwargs


class Generation(Spec):
    """Generation settings of a language model; a model with a task does not use them."""

    engine: Literal["vllm", "transformers"] = "vllm"
    """vllm: the offline engine of the server, which computes many texts at once and takes half a minute to start."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest answer, in tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: the likeliest answer, as scores need it. Samples are usually taken at 0.7."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Samples come from the likeliest tokens that hold this much of the probability."""
    max_length_tokens: Annotated[int, Field(ge=16)] = 2048
    """Prompt and answer together, in vllm; a row that is longer fails by itself."""
    kv_cache_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """For the texts that vllm has at work, on a CPU. On a GPU it takes what the weights leave."""
    system: str | None = None
    """System message before each text. Default: whatever the chat template does by itself."""
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)
    """Settings of the chat template, such as `enable_thinking: false`, as in training."""
    seed: int = 0
    """Seed of sampled answers: the same row of the same data gets the same answer."""

    @model_validator(mode="after")
    def _samples_need_vllm(self) -> Self:
        if self.temperature and self.engine != "vllm":
            raise ValueError("temperature needs engine vllm; with transformers answers are the likeliest")
        return self


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
    """At most so many rows, the first ones."""
    generation: Generation = Generation()
    """How a model without a task writes its answers."""
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

    @model_validator(mode="after")
    def _the_part_is_the_hubs(self) -> Self:
        self.check_part(self.data)
        return self
