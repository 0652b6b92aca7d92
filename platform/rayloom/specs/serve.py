"""`kind: serve`: models behind one OpenAI-compatible endpoint, each with replicas that follow the load."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import JobSpec, ModelRef, Name, Spec


class KvCache(Spec):
    """Memory for keys and values of running requests."""

    size_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """Of each replica. `rayloom plan` says how many tokens and full-length requests fit."""
    prefix_caching: bool = True
    """Requests that begin alike share the computed prefix."""


class Engine(Spec):
    """What one replica is: a vLLM engine and the resources it holds."""

    max_model_length_tokens: Annotated[int, Field(ge=16)] = 2048
    """Prompt and answer together."""
    max_sequences: Annotated[int, Field(ge=1)] = 32
    """Requests that the engine computes at once; further ones wait in it."""
    cpus_per_replica: Annotated[int, Field(ge=1)] = 1
    """Cores that compute; without GPUs each replica gets its own, so that two never share one."""
    gpus_per_replica: Annotated[int, Field(ge=0)] = 0
    compiled: bool = False
    """Compile the model at every start: on CPUs some 15 % more tokens/s for about half a minute more to start."""
    kv_cache: KvCache = KvCache()


class Autoscaling(Spec):
    """Replicas by requests in flight."""

    min_replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 16
    """Requests in flight per replica that autoscaling aims for."""
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 128
    """Requests that one replica takes at once; more wait in the queue."""
    upscale_delay_seconds: Annotated[float, Field(ge=0)] = 10
    """How long the load must be above the target before replicas are added."""
    downscale_delay_seconds: Annotated[float, Field(ge=0)] = 300

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is less than min_replicas")
        if self.max_ongoing_requests < self.target_ongoing_requests:
            raise ValueError("max_ongoing_requests is less than target_ongoing_requests: it would never scale up")
        return self


class ServedModel(Spec):
    """One model of the endpoint."""

    name: Name
    """What requests call it."""
    model: ModelRef
    engine: Engine = Engine()
    autoscaling: Autoscaling = Autoscaling()


class ServeCheck(Spec):
    """What a pipeline asks the first model before the service counts as good; the answers are the stage's artifact."""

    prompt: str
    contains: str
    """The answer must contain this text, upper and lower case alike."""
    load_clients: Annotated[int, Field(ge=1)] = 32
    """Concurrent clients that load it until max_replicas run and each took requests."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 32
    """Of each answer, also under load."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 300


class ServeSpec(JobSpec):
    """Models served until stopped; in a pipeline, served, checked and shut down."""

    kind: Literal["serve"]
    models: Annotated[tuple[ServedModel, ...], Field(min_length=1)]
    host: Annotated[str, "unfingerprinted"] = "127.0.0.1"
    """Address to listen on; the default is reached from this machine only."""
    port: Annotated[int, Field(ge=1, le=65535), "unfingerprinted"] = 8000
    check: ServeCheck | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two models have the name {', '.join(twice)}")
        return self
