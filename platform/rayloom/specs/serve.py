"""`kind: serve`: models behind one OpenAI-compatible endpoint, each with autoscaled replicas."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Bundle, JobSpec, ModelRef, Name, OutsideFiles, Spec, TunedRef, refuse_repeated
from rayloom.specs.prompting import LabelPrompt
from rayloom.specs.serving.batching import Batching
from rayloom.specs.serving.engine import EngineSpec
from rayloom.specs.text_file import TextFile
from rayloom.specs.text_generation import Generation


class Autoscaling(Spec):
    """Autoscaling of replicas by ongoing requests."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Fewest replicas that run. With 0, all are stopped if no request came for downscale_delay_seconds; the next
    request then waits until one has started."""
    max_replicas: Annotated[int, Field(ge=1)] = 1
    """Most replicas that run at once."""
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 16
    """Requests in flight per replica that autoscaling aims for."""
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 128
    """Requests that one replica takes at once; further ones wait in the gateway's queue."""
    max_queued_requests: Annotated[int, Field(ge=0)] = 256
    """Requests that may wait for a replica; further ones are refused with 429 and `Retry-After`."""
    upscale_delay_seconds: Annotated[float, Field(ge=0)] = 10
    """How long the load must be above the target before replicas are added."""
    downscale_delay_seconds: Annotated[float, Field(ge=0)] = 300
    """How long the load must be low before a replica is stopped."""
    routing: Literal["least_busy", "prefix"] = "least_busy"
    """How a request's replica is chosen. least_busy: the one with the fewest requests. prefix: the one that served a
    prompt with the same beginning, because its KV cache still holds that beginning."""
    max_imbalance_requests: Annotated[int, Field(ge=1)] = 8
    """For prefix: if the numbers of requests of two replicas differ by more than this, the less busy one gets the
    next."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is less than min_replicas")
        if self.max_ongoing_requests < self.target_ongoing_requests:
            raise ValueError("max_ongoing_requests is less than target_ongoing_requests: it would never scale up")
        return self


class Adapters(Spec):
    """LoRA adapters in the store, named in requests as `MODEL:ADAPTER`; new ones can be used without a restart."""

    allow: tuple[Name, ...] | Literal["all"] = "all"
    """Names of adapters in the store; all: each one that was trained on this model."""
    max_rank: Literal[8, 16, 32, 64, 128, 256] = 16
    """Largest rank of an adapter that can be loaded; memory is reserved for it."""
    max_at_once: Annotated[int, Field(ge=1)] = 4
    """Different adapters among the requests that are computed at once."""
    max_loaded: Annotated[int, Field(ge=1)] = 16
    """Adapters that stay in a replica's memory; the least recently used one is dropped first."""

    @model_validator(mode="after")
    def _loaded_are_enough(self) -> Self:
        if self.max_loaded < self.max_at_once:
            raise ValueError("max_loaded is less than max_at_once")
        return self


class ServedModel(Spec):
    """One model of the endpoint."""

    name: Name
    """The name that requests use."""
    model: ModelRef
    """The model to serve."""
    adapters: Adapters | None = None
    """LoRA adapters to serve with this model. Default: none."""
    written_engine: Annotated[EngineSpec | Literal["auto"], Field(alias="engine")] = "auto"
    """vLLM's settings for each replica. auto: all that a search (`rayloom init speed`) found fastest for this model on
    this kind of machine; without one the defaults."""
    chat_template: Annotated[str | None, TextFile()] = None
    """File with a Jinja chat template, for `/v1/chat/completions` and `/tokenize` in place of the model's own. `plan`
    says where the model was trained with another. Default: the model's own."""
    serve_if_slower: bool = False
    """Serve a quantised model even if it was measured slower on this machine than the model that it was made from."""
    autoscaling: Autoscaling = Autoscaling()
    """How many replicas run, and when their number changes."""

    @property
    def engine(self) -> EngineSpec:
        """The settings as written; the defaults where a search's were to be taken and there are none."""
        return EngineSpec() if self.written_engine == "auto" else self.written_engine

    def with_engine(self, engine: EngineSpec) -> Self:
        return self.model_copy(update={"written_engine": engine})

    @property
    def resources(self) -> EngineSpec:
        """The object with a replica's cores and GPUs."""
        return self.engine

    @property
    def bundle(self) -> Bundle:
        """One replica: each of its GPUs comes with as many cores."""
        return _replica(self.engine)

    @model_validator(mode="after")
    def _adapters_are_not_compiled(self) -> Self:
        if self.adapters is not None and self.engine.compiled and not self.engine.gpus_per_replica:
            raise ValueError("vLLM does not compile a model that carries adapters on a CPU: set engine.compiled: false")
        return self


class ServedPredictor(Spec):
    """A model that answers texts with classes (`/v1/classify`), entities (`/v1/tag`), the answer to a question
    (`/v1/answer`), another text (`/v1/generate`, also for a decoder with an adapter that vLLM cannot load), or answers
    with a number (`/v1/score`, a reward model), depending on the task for which it was trained."""

    name: Name
    """The name that requests use."""
    model: TunedRef
    """The model or adapter to serve; its task decides the path that it is asked under."""
    generation: Generation = Generation()
    """How a language model writes its answers."""
    prompt: LabelPrompt | None = None
    """Ask a language model for labels by this prompt, under `/v1/classify`. Default: each text is a user's message."""
    batching: Batching = Batching()
    """How texts of different requests are computed together."""
    cpus_per_replica: Annotated[int, Field(ge=1)] = 1
    """CPUs that each replica uses."""
    gpus_per_replica: Literal[0, 1] = 0
    """GPUs that each replica uses; 0 computes on the CPU."""
    autoscaling: Autoscaling = Autoscaling()
    """How many replicas run, and when their number changes."""

    @property
    def resources(self) -> Self:
        """The object with a replica's cores and GPUs."""
        return self

    @property
    def bundle(self) -> Bundle:
        """One replica: each of its GPUs comes with as many cores."""
        return _replica(self)

    @model_validator(mode="after")
    def _no_prefixes(self) -> Self:
        if self.autoscaling.routing == "prefix":
            raise ValueError(
                "autoscaling.routing: prefix is for models in vLLM, which cache the prompts they have read"
            )
        return self


class AccessRules(Spec):
    """API keys, rate limits and limits of a request."""

    keys_required: bool = False
    """Only requests with an API key of the store (`rayloom keys create`) are answered. A revoked key is refused within
    seconds. While the store cannot be read, the keys known last are accepted for a minute, then requests get a 503."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Requests per minute for each key, or for all clients together if no keys are required. Default: no limit."""
    max_request_bytes: Annotated[int, Field(ge=1024)] = 1 << 20
    """Largest body of a request; a larger one is answered with 413."""
    max_answer_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer, whatever a request asks for. Default: as long as engine.max_model_length_tokens allows."""
    max_answers_per_request: Annotated[int, Field(ge=1)] = 128
    """Most answers to one request: its prompts times the answers (`n`) that it asks for to each."""
    deadline_seconds: Annotated[float, Field(gt=0)] = 600
    """A request that takes longer, including its time in the queue, ends with an error."""


class Logs(Spec):
    """What is logged of each request."""

    access: Annotated[bool, "unfingerprinted"] = True
    """One line of JSON for each request; `rayloom run` says where."""
    prompts: Annotated[bool, "unfingerprinted"] = False
    """Also log the prompts, which may hold personal data."""


class ServeCheck(Spec):
    """The check of a service in a pipeline: a question to the first model, then load. Its artifact has the answers."""

    prompt: str
    """What the first model is asked, as a user's message."""
    contains: str
    """Text that the answer must contain, in upper or lower case."""
    load_clients: Annotated[int, Field(ge=1)] = 32
    """Concurrent clients that load it until max_replicas run and each took requests."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 32
    """Longest answer, in tokens, also under load."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 300
    """How long the answer may take, and the load until every replica took requests."""


def _replica(resources: EngineSpec | ServedPredictor) -> Bundle:
    return Bundle(resources.cpus_per_replica * max(1, resources.gpus_per_replica), resources.gpus_per_replica)


class ServeSpec(JobSpec):
    """Serves models until stopped; in a pipeline, serves, checks and stops."""

    kind: Literal["serve"]
    models: tuple[ServedModel, ...] = ()
    """Language models, each in vLLM, behind the OpenAI-compatible paths."""
    predictors: tuple[ServedPredictor, ...] = ()
    """Models for tasks: classifiers, taggers, question answerers and encoder-decoders."""
    host: Annotated[str, "unfingerprinted"] = "127.0.0.1"
    """Address to listen on; the default is reached from this machine only."""
    port: Annotated[int, Field(ge=1, le=65535), "unfingerprinted"] = 8000
    """TCP port of the endpoint."""
    profile: Literal["full", "direct"] = "full"
    """full: a gateway takes the requests and passes them to the replicas. direct: each replica's engine takes requests
    itself, which is faster, but there is no second model, adapter or autoscaling, no retry if a replica dies, and no
    update without an interruption."""
    chat_page: bool = False
    """A page at `/` to chat with the models in a browser; it asks for a key if keys are required."""
    doors: AccessRules = AccessRules()
    """API keys, rate limits, and limits of each request."""
    logs: Logs = Logs()
    """What is written about each request."""
    gateway_replicas: Annotated[int, Field(ge=1)] = 1
    """Processes that take requests. Limits and queues are divided among them. A key whose own limit is lower than their
    number can send one request to each before its limit holds."""
    gateway_nodes: Literal["one", "several"] = "one"
    """one: all of them run where the command does. several: each runs on a node of its own, so that the service is
    reached at each of these nodes, and answers on when one is lost."""
    check: ServeCheck | None = None
    """In a pipeline, what the stage asks the service before stopping it. Default: the stage only starts the service."""

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> Self:
        is_local = self.host == "localhost" or self.host == "::1" or self.host.startswith("127.")
        if not is_local and not self.doors.keys_required:
            raise ValueError(f"host {self.host} is reached from other machines: set doors.keys_required: true")
        return self

    @property
    def served(self) -> tuple[ServedModel | ServedPredictor, ...]:
        return (*self.models, *self.predictors)

    def outside_files(self) -> Iterator[OutsideFiles]:
        for number, predictor in enumerate(self.predictors):
            if predictor.prompt is not None:
                yield from predictor.prompt.files_of(f"predictors.{number}.prompt")

    def bundles(self) -> list[Bundle]:
        return [served.bundle for served in self.served for _ in range(max(1, served.autoscaling.min_replicas))]

    @property
    def is_direct(self) -> bool:
        return self.profile == "direct"

    @property
    def num_gateways(self) -> int:
        """The number of processes that accept requests, each with its share of every limit."""
        return self.models[0].autoscaling.max_replicas if self.is_direct else self.gateway_replicas

    @model_validator(mode="after")
    def _serves_something(self) -> Self:
        if not self.served:
            raise ValueError("there is nothing to serve: name a model under models or predictors")
        if not self.models and (self.check is not None or self.chat_page):
            raise ValueError("check and chat_page talk to the first of models, and there is none")
        return self

    @model_validator(mode="after")
    def _direct_is_one_model(self) -> Self:
        if not self.is_direct:
            return self
        if len(self.served) > 1 or not self.models or self.models[0].adapters is not None:
            raise ValueError("profile: direct serves one model without adapters, and no predictors")
        scaling = self.models[0].autoscaling
        if self.gateway_replicas != 1 or self.gateway_nodes != "one":
            raise ValueError("profile: direct has no gateway of its own: leave out gateway_replicas and gateway_nodes")
        if scaling.min_replicas != scaling.max_replicas:
            raise ValueError(
                "profile: direct does not follow the load: give autoscaling min_replicas and max_replicas alike"
            )
        return self

    @model_validator(mode="after")
    def _limits_can_be_divided(self) -> Self:
        num_gateways, per_minute = self.num_gateways, self.doors.requests_per_minute
        if per_minute is not None and per_minute < num_gateways:
            what = f"doors.requests_per_minute: {per_minute} cannot be divided among {num_gateways} gateways"
            raise ValueError(f"{what}: raise it, or have fewer of them")
        for served in () if self.is_direct else self.served:
            waiting = served.autoscaling.max_queued_requests
            if waiting < num_gateways:
                what = f"{served.name}: autoscaling.max_queued_requests: {waiting} leaves a gateway without a queue"
                raise ValueError(f"{what}: set it to gateway_replicas ({num_gateways}) or more")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        refuse_repeated((served.name for served in self.served), "models")
        return self
