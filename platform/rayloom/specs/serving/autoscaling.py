"""How many replicas a served model has, and which of them a request goes to."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Spec


class Autoscaling(Spec):
    """Replicas by requests in flight."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    """0: a model that nobody asks for ends after downscale_delay_seconds, and the next request waits for its start."""
    max_replicas: Annotated[int, Field(ge=1)] = 1
    """Most replicas that run at once."""
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 16
    """Requests in flight per replica that autoscaling aims for."""
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 128
    """Requests that one replica takes at once; more wait in the gateway's queue."""
    max_queued_requests: Annotated[int, Field(ge=0)] = 256
    """Requests that may wait for a replica; one more is refused with 429 and `Retry-After`."""
    upscale_delay_seconds: Annotated[float, Field(ge=0)] = 10
    """How long the load must be above the target before replicas are added."""
    downscale_delay_seconds: Annotated[float, Field(ge=0)] = 300
    """How long the load must be low before a replica is stopped."""
    routing: Literal["least_busy", "prefix"] = "least_busy"
    """prefix: requests that begin alike go to one replica, whose cache has their beginning."""
    max_imbalance_requests: Annotated[int, Field(ge=1)] = 8
    """For prefix: where one replica has so many more than another, the less busy one gets the request."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is less than min_replicas")
        if self.max_ongoing_requests < self.target_ongoing_requests:
            raise ValueError("max_ongoing_requests is less than target_ongoing_requests: it would never scale up")
        return self
