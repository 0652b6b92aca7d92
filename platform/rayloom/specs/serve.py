"""`kind: serve`: a model behind an OpenAI-compatible endpoint with autoscaling."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import JobSpec, ModelRef, Name, Spec


class KvCache(Spec):
    """Memory for keys and values of running requests."""

    size_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    prefix_caching: bool = True
    """Requests that begin alike share the computed prefix."""


class Autoscaling(Spec):
    """Replicas by ongoing requests."""

    min_replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 16
    """Requests in flight per replica that autoscaling aims for."""
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 128
    """Requests that one replica takes at once; more wait in the queue."""
    upscale_delay_seconds: Annotated[float, Field(ge=0)] = 10
    downscale_delay_seconds: Annotated[float, Field(ge=0)] = 300

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is less than min_replicas")
        return self


class Engine(Spec):
    """What one replica is: a vLLM engine and the resources it holds."""

    max_model_length_tokens: Annotated[int, Field(ge=16)] = 2048
    max_sequences: Annotated[int, Field(ge=1)] = 32
    """Requests that the engine computes at once."""
    cpus_per_replica: Annotated[int, Field(ge=1)] = 1
    gpus_per_replica: Annotated[int, Field(ge=0)] = 0
    kv_cache: KvCache = KvCache()


class ServeCheck(Spec):
    """What a pipeline asks the running service before it counts as good; the answers are the stage's artifact."""

    prompt: str
    contains: str
    """The answer must contain this text."""
    load_clients: Annotated[int, Field(ge=1)] = 32
    """Concurrent clients that load it until max_replicas run."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 300


class ServeSpec(JobSpec):
    """One model served until it is stopped; in a pipeline, served, checked and shut down."""

    kind: Literal["serve"]
    model: ModelRef
    model_name: Name | None = None
    """What requests call it. Default: the artifact's name."""
    host: Annotated[str, "unfingerprinted"] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535), "unfingerprinted"] = 8000
    engine: Engine = Engine()
    autoscaling: Autoscaling = Autoscaling()
    check: ServeCheck | None = None
