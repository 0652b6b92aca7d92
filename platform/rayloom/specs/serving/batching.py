"""How requests to a model for tasks are computed together."""

from typing import Annotated

from pydantic import Field

from rayloom.specs.base import Spec


class Batching(Spec):
    """How texts of different requests are batched."""

    max_texts: Annotated[int, Field(ge=1)] = 16
    """Most texts that are computed together."""
    wait_seconds: Annotated[float, Field(ge=0)] = 0.005
    """How long the first text waits for others."""
