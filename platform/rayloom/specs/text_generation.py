"""`generation`: how a language model writes an answer."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Spec
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
