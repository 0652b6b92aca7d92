"""Workers, sharding, checkpoints and fault handling of a training job."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import Spec

TYPED_KEYS = frozenset({
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "bf16",
    "fp16", "optimizer", "scheduler", "data_types", "communication_data_type",
})  # fmt: skip
UNCOVERED_KEYS = frozenset({"tensor_parallel", "expert_parallel", "pipeline", "sequence_parallel_size"})
"""DeepSpeed's keys for the features that `Sharding` does not cover."""
TYPED_ZERO_KEYS = frozenset({"stage", "offload_optimizer", "offload_param"})
"""DeepSpeed's keys that are set from the spec's own fields."""


class Offload(Spec):
    """State kept in main memory, for larger models at lower speed (Ren et al. 2021, ZeRO-Offload)."""

    optimizer: bool = False
    """Master weights and optimiser state in the machine's memory, and the update computed there."""
    parameters: bool = False
    """Weights in the machine's memory too, fetched layer by layer. Needs zero_stage 3."""


class Sharding(Spec):
    """How a model and its rows are spread over workers: num_workers = pipeline × tensor × context × workers with other
    rows.

    Not covered: offload to NVMe, which needs libaio and an operator that DeepSpeed compiles at run time.
    """

    pipeline: Annotated[int, Field(ge=1)] = 1
    """Workers, or groups of them, that have some of the layers each and hand hidden states on to the next, micro-batch
    by micro-batch (Narayanan et al. 2019, PipeDream: one forward, one backward). They exchange least, so they may be
    nodes. The more micro-batches are accumulated in a step, the shorter they wait: (pipeline − 1) / (micro-batches +
    pipeline − 1) of the time."""
    tensor: Annotated[int, Field(ge=1)] = 1
    """Workers that compute the same rows together: each holds a part of every large matrix (Shoeybi et al. 2019,
    arXiv:1909.08053). They exchange hidden states four times a layer, so they should be the GPUs of one node."""
    context: Annotated[int, Field(ge=1)] = 1
    """Workers that compute the same rows together, each some of the positions, for long rows (Jacobs et al. 2023,
    DeepSpeed-Ulysses, arXiv:2309.14509). In attention each has some of the heads at all positions, so packed texts stay
    apart; with tensor, they must divide the heads together."""
    expert: Annotated[int, Field(ge=1)] = 1
    """Workers over which the experts of each mixture layer are spread, whatever their rows. Tokens go to the workers of
    their experts and back, and none is dropped (Lepikhin et al. 2020, GShard, arXiv:2006.16668). A multiple of `tensor`
    that divides num_workers; they should be the GPUs of one node. For bases that are mixtures."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What DeepSpeed splits among the workers with the same part of the matrices, all without `tensor` (ZeRO,
    Rajbhandari et al. 2020). 0: nothing. 1: optimiser state. 2: gradients too. 3: weights too."""
    offload: Offload = Offload()
    """What is kept in the machine's memory instead of the device's."""
    reduce_precision: Literal["fp32", "bf16"] = "fp32"
    """Number format in which gradients are summed over workers. bf16 sends half the bytes and rounds each sum."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further keys of DeepSpeed's own configuration; keys that other fields of the spec decide are refused."""

    @property
    def in_layers(self) -> int:
        """Workers that compute the same layers of the same rows."""
        return self.tensor * self.context

    @property
    def together(self) -> int:
        """Workers that compute the same rows."""
        return self.pipeline * self.in_layers

    @property
    def axes(self) -> dict[str, int]:
        """The axes along which there are several workers, and how many."""
        all_of_them = {"pipeline": self.pipeline, "tensor": self.tensor, "context": self.context, "expert": self.expert}
        return {name: size for name, size in all_of_them.items() if size > 1}

    @property
    def cuts_weights(self) -> bool:
        """Whether workers hold different parts of the weights."""
        return self.zero_stage == 3 or bool(self.axes.keys() - {"context"})

    @model_validator(mode="after")
    def _offload_needs_sharding(self) -> Self:
        if self.offload.optimizer and not self.zero_stage:
            raise ValueError("offload.optimizer needs zero_stage 1, 2 or 3")
        if self.offload.parameters and (self.zero_stage != 3 or not self.offload.optimizer):
            raise ValueError("offload.parameters needs zero_stage 3 and offload.optimizer")
        return self

    @model_validator(mode="after")
    def _extra_is_deepspeeds(self) -> Self:
        if self.extra and not self.zero_stage:
            raise ValueError("extra is DeepSpeed's configuration, which zero_stage 0 does not use")
        zero = self.extra.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError("extra.zero_optimization must hold keys and values")
        taken = [*sorted(TYPED_KEYS & set(self.extra)), *sorted(TYPED_ZERO_KEYS & set(zero))]
        if taken:
            raise ValueError(f"extra repeats what the spec says itself: {', '.join(taken)}")
        uncovered = sorted(UNCOVERED_KEYS & set(self.extra))
        if uncovered:
            what = f"extra asks for what is not covered here: {', '.join(uncovered)}"
            raise ValueError(f"{what}; use pipeline, tensor, context, expert or zero_stage instead")
        return self


class Workers(Spec):
    """The Ray Train workers. One worker drives at most one GPU."""

    num_workers: Annotated[int, Field(ge=1)] = 1
    """Processes that train side by side, each on its part of every batch."""
    min_workers: Annotated[int, Field(ge=1)] | None = None
    """Fewest workers to train with. If the cluster has no room for num_workers, training runs with fewer, down to this
    number, and adds workers when there is room. Default: num_workers, so that training waits for all."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """CPUs that each worker uses."""
    gpus_per_worker: Literal[0, 1] = 0
    """GPUs that each worker uses; 0 trains on the CPU."""

    @property
    def fewest(self) -> int:
        """The smallest number of workers with which training runs."""
        return self.min_workers or self.num_workers

    @model_validator(mode="after")
    def _fewest_is_fewer(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}")
        return self


class CheckpointSchedule(Spec):
    """When training saves checkpoints, from which it can continue exactly."""

    every_steps: Annotated[int, Field(ge=1)] = 1000
    """Optimiser steps between two checkpoints."""
    every_minutes: Annotated[float, Field(gt=0)] | None = None
    """Also save when this many minutes have passed since the last checkpoint. Default: by steps only."""
    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the newest checkpoints are kept while the job runs. All are removed when its artifact is
    published."""


class Faults(Spec):
    """What is done if a step's loss or gradient is NaN or infinite, if its loss spikes, and if workers fail."""

    spike_factor: Annotated[float, Field(gt=1)] | None = None
    """A loss is a spike if it is more than this many times the running mean. Default: no loss counts as a spike."""
    max_skipped_steps: Annotated[int, Field(ge=0)] = 3
    """How many bad steps in a row are skipped: their batch changes no weight. A bad step has a NaN or infinite loss or
    gradient, or a spike."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 1
    """If more steps than that are bad, the run goes back to its last checkpoint, at most this many times. After that it
    stops, and the error names the rows of the bad batch."""
    rollback_learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The learning rate is multiplied by this each time the run goes back."""
    out_of_memory: Literal["halve_micro_batch", "stop"] = "halve_micro_batch"
    """halve_micro_batch: continue with half the micro batch and more accumulation, so that the global batch stays
    the same."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often the workers are restarted from the last checkpoint after one of them died, or the object store did not
    answer one of them."""


class EarlyStopping(Spec):
    """Training stops if the held-out loss or score no longer improves; the best weights are kept."""

    by: Literal["loss", "score"] = "loss"
    """score: what evaluations of the task measure (accuracy, micro F1, entity F1, F1 of an answer's tokens), or the
    part of the pairs that are judged as people did."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Evaluations without improvement before stopping."""
    threshold: Annotated[float, Field(ge=0)] = 0.001
    """Smallest change that counts as an improvement: nats per label, or a difference of scores from 0 to 1."""
