"""What a training job runs on, and what it does when something breaks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayloom.specs.base import Spec


class Sharding(Spec):
    """How DeepSpeed spreads state over workers (ZeRO, Rajbhandari et al. 2020)."""

    zero_stage: Literal[0, 1, 2, 3] = 0


class Workers(Spec):
    """The Ray Train workers. One worker drives at most one GPU."""

    num_workers: Annotated[int, Field(ge=1)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    gpus_per_worker: Literal[0, 1] = 0


class Checkpoints(Spec):
    """When training saves what it needs to continue exactly where it was."""

    every_steps: Annotated[int, Field(ge=1)] = 1000
    every_minutes: Annotated[float, Field(gt=0)] | None = None
    """Also so many minutes after the last one."""
    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the newest are kept while the job runs; all are gone once its artifact is published."""


class Faults(Spec):
    """What is done when a step's loss or gradient is NaN or infinite, or its loss a spike, and when workers fail."""

    spike_factor: Annotated[float, Field(gt=1)] | None = None
    """A loss of more than so many times its running mean is a spike. Default: spikes are trained on."""
    max_skipped_steps: Annotated[int, Field(ge=0)] = 3
    """Bad steps in a row whose batch is skipped."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 1
    """How often the run then goes back to its last checkpoint. After that it stops and names the rows."""
    rollback_learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """What the learning rate is multiplied by when going back."""
    out_of_memory: Literal["halve_micro_batch", "stop"] = "halve_micro_batch"
    """Halved, the global batch stays the same by accumulating more."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often workers that died are started again, each time from the last checkpoint."""


class EarlyStopping(Spec):
    """Stop when the held-out loss no longer falls; the best weights are kept."""

    patience: Annotated[int, Field(ge=1)] = 3
    """Evaluations without improvement before stopping."""
    threshold: Annotated[float, Field(ge=0)] = 0.001
    """Nats per token that count as an improvement."""
