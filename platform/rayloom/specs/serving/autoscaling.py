"""How many replicas a served model has, and which of them a request goes to."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Spec


class Autoscaling(Spec):
    """The number of replicas, by requests in flight."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    """0: a model without requests stops after downscale_delay_seconds, and the next request waits for its start."""
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
    """prefix: requests that begin with the same text go to the same replica, which has it in its cache."""
    max_imbalance_requests: Annotated[int, Field(ge=1)] = 8
    """For prefix: if one replica has more requests than another by this number, the less busy one gets the next."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is less than min_replicas")
        if self.max_ongoing_requests < self.target_ongoing_requests:
            raise ValueError("max_ongoing_requests is less than target_ongoing_requests: it would never scale up")
        return self
