"""`engine` and `judge` of a generating job: what writes, and how it samples."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from rayloom.specs.base import Bundle, Rule, Spec, TunedRef
from rayloom.specs.training.training_data import TemplateKwargs

Url = Annotated[
    str, StringConstraints(pattern=r"^https?://[^\s]+$"), Rule("must be a URL such as https://api.example.org/v1")
]
Variable = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), Rule("must be the name of an environment variable")
]
Price = Annotated[float, Field(ge=0, examples=[0.15])]


class Sampling(Spec):
    """How answers are drawn. A request of a task that needs one answer only, such as yes or no, is always greedy."""

    temperature: Annotated[float, Field(ge=0)] = 0.7
    """0: the likeliest answer; several samples of it are the same."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Samples come from the likeliest tokens that hold this much of the probability."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest answer, in tokens."""
    seed: int = 0
    """Seed of everything that is drawn: the same request of the same job gets the same answer, in whatever order."""


class ModelEngine(Spec):
    """A model of the store, which answers by vLLM in actors on the cluster that stay up for the whole job."""

    type: Literal["model"]
    model: TunedRef
    """The model or adapter that writes."""
    form: Literal["chat", "completion"] = "chat"
    """chat: the prompt is a user message in the model's chat template. completion: the model goes on with the prompt
    itself, for a base model that never saw a conversation."""
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)
    """Settings of the chat template, such as `enable_thinking: false`."""
    max_length_tokens: Annotated[int, Field(ge=16)] = 2048
    """Prompt and answer together; a longer prompt costs its own row."""
    kv_cache_bytes: Annotated[int, Field(ge=1 << 20), "unfingerprinted"] = 1 << 30
    """For the texts that vLLM has at work, on a CPU. On a GPU it takes what the weights leave."""
    micro_batch_sequences: Annotated[int, Field(ge=1), "unfingerprinted"] = 64
    """Texts that one worker computes at once."""
    num_workers: Annotated[int, Field(ge=1), "unfingerprinted"] = 1
    """Workers that write side by side, each with the model loaded."""
    cpus_per_worker: Annotated[int, Field(ge=1), "unfingerprinted"] = 1
    """CPUs that each worker uses."""
    gpus_per_worker: Annotated[Literal[0, 1], "unfingerprinted"] = 0
    """GPUs that each worker uses; 0 computes on the CPU."""

    def bundles(self) -> list[Bundle]:
        return [Bundle(self.cpus_per_worker, self.gpus_per_worker)] * self.num_workers


class EndpointBudget(Spec):
    """The most that an endpoint may cost, over all runs of this job. Counted in whatever currency the prices are in."""

    cost: Annotated[float, Field(gt=0)]
    """No request is sent that could cost more than what is left; the job then stops and goes on if this is raised."""
    price_per_million_input_tokens: Price
    """Of prompts."""
    price_per_million_output_tokens: Price
    """Of answers."""

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if not self.price_per_million_input_tokens + self.price_per_million_output_tokens:
            raise ValueError("both prices are 0, so that nothing would ever be spent")
        return self


class EndpointEngine(Spec):
    """A model behind an OpenAI-compatible endpoint (`/chat/completions`)."""

    type: Literal["endpoint"]
    url: Url
    """The address up to `/chat/completions`, such as https://api.example.org/v1."""
    model: Annotated[str, StringConstraints(min_length=1)]
    """The model's name there."""
    api_key_variable: Annotated[Variable | None, "unfingerprinted"] = None
    """Environment variable that holds the key, where the job is started. The key itself never stands in a file."""
    licence: str | None = None
    """What the provider's terms say about its answers; it is inherited by whatever is made of them."""
    requests_per_minute: Annotated[float | None, Field(gt=0), "unfingerprinted"] = None
    """Requests are sent evenly, at most so many a minute. `Retry-After` is respected in any case."""
    max_parallel_requests: Annotated[int, Field(ge=1, le=1024), "unfingerprinted"] = 8
    """Requests that wait for an answer at the same time."""
    timeout_seconds: Annotated[float, Field(gt=0), "unfingerprinted"] = 120.0
    """Longest wait for one answer."""
    num_attempts: Annotated[int, Field(ge=1), "unfingerprinted"] = 6
    """How often a request is sent while the endpoint is overloaded or down. Then the job stops, to go on later."""
    budget: Annotated[EndpointBudget | None, "unfingerprinted"] = None
    """The most that the job may cost. Default: no limit."""

    def bundles(self) -> list[Bundle]:
        return []


Engine = Annotated[ModelEngine | EndpointEngine, Field(discriminator="type")]
