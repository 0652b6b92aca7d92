"""`kind: train`: pretraining, continued pretraining and fine-tuning, told apart by values only."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.adapters import VIRTUAL_TOKEN_METHODS, Adapter, LoraAdapter, NoAdapter, PartsOnly
from rayloom.specs.base import CorpusRef, DatasetRef, JobSpec, ModelRef, Share, Spec, TunedRef


class DecoderArchitecture(Spec):
    """A Llama-style decoder with fresh weights. Its vocabulary is that of the corpus' tokenizer."""

    type: Literal["decoder"]
    num_layers: Annotated[int, Field(ge=1)] = 12
    hidden_size: Annotated[int, Field(ge=8)] = 768
    num_heads: Annotated[int, Field(ge=1)] | None = None
    """Default: one head for every 64 of hidden_size."""
    num_key_value_heads: Annotated[int, Field(ge=1)] | None = None
    """Fewer than num_heads is grouped-query attention (Ainslie et al. 2023). Default: num_heads."""
    feed_forward_size: Annotated[int, Field(ge=8)] | None = None
    """Default: 8/3 of hidden_size rounded up to a multiple of 64, as SwiGLU has three matrices (Shazeer 2020)."""
    max_positions: Annotated[int, Field(ge=8)] = 2048
    tied_embeddings: bool = True

    @property
    def heads(self) -> int:
        return self.num_heads or max(1, self.hidden_size // 64)

    @property
    def feed_forward(self) -> int:
        return self.feed_forward_size or -(-self.hidden_size * 8 // 3 // 64) * 64

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide by {self.heads} heads")
        if self.heads % (self.num_key_value_heads or self.heads):
            raise ValueError(f"{self.heads} heads do not divide into {self.num_key_value_heads} key-value heads")
        return self


class CorpusData(Spec):
    """Packed token shards made by a `clean` job; every token is trained."""

    type: Literal["corpus"]
    corpus: CorpusRef


RowProblem = Literal[
    "missing_column",
    "not_a_conversation",
    "not_text",
    "roles_out_of_order",
    "not_the_assistants",
    "empty_answer",
    "no_answer",
    "stop_token_in_answer",
    "no_trained_token",
    "bad_tool",
    "unrenderable",
]
"""What can be wrong with a row of conversations."""


class ConversationSource(Spec):
    """Rows of a data set read as conversations."""

    dataset: DatasetRef
    files: str = "**"
    """Glob pattern of the files to read: JSON lists, or JSON lines."""
    format: Literal["alpaca", "messages", "sharegpt", "prompt_completion"]
    fill: dict[str, str] = Field(default_factory=dict)
    """Text put in for `{{key}}` in every row, such as name and author of an identity set."""
    limit_rows: Annotated[int, Field(ge=1)] | None = None
    """At most so many rows, chosen by the seed."""
    max_row_tokens: Annotated[int, Field(ge=8)] | None = None
    """Rows longer than this are left out before limit_rows is applied, and counted."""
    repeat: Annotated[int, Field(ge=1)] = 1
    """How often each row stands in an epoch."""


class ConversationData(Spec):
    """Conversations rendered with the model's chat template; only what the assistant says is trained."""

    type: Literal["conversations"]
    sources: Annotated[tuple[ConversationSource, ...], Field(min_length=1)]
    heldout_rows: Annotated[int, Field(ge=1)] = 100
    """Rows taken from the sources that are not repeated, never trained on; the same rows for the same seed."""
    length_policy: Literal["error", "drop", "truncate"] = "error"
    """What to do with a conversation longer than sequence_length_tokens."""
    max_length_policy_share: Share = 0.01
    """Part of the rows that `drop` or `truncate` may touch; past it the job fails."""
    leave_out: tuple[RowProblem, ...] = ()
    """Rows with these problems are left out and counted; any other problem stops the job, every such row named."""
    system: str | None = None
    """System message for rows that bring none. Default: whatever the chat template does by itself."""


class Schedule(Spec):
    """Learning rate by step: linear warm-up, then the named shape down to `final_share` of the peak."""

    type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_share: Share = 0.1


class AdamW(Spec):
    """AdamW (Loshchilov & Hutter 2019); norms and biases are never decayed."""

    type: Literal["adamw"]
    beta1: Annotated[float, Field(gt=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


class Muon(Spec):
    """Orthogonalised momentum for the matrices inside the layers (Jordan et al. 2024), AdamW for everything else.

    Updates are scaled to AdamW's usual size (Liu et al. 2025), so that one learning rate serves both.
    """

    type: Literal["muon"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    beta1: Annotated[float, Field(gt=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


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


class TrainSpec(JobSpec):
    """One training run. Give `base` to continue from a model, or `architecture` for fresh weights."""

    kind: Literal["train"]
    base: ModelRef | None = None
    architecture: DecoderArchitecture | None = None
    data: Annotated[CorpusData | ConversationData, Field(discriminator="type")]
    adapter: Adapter = NoAdapter(type="none")
    sequence_length_tokens: Annotated[int, Field(ge=8)] = 1024
    """Length of a packed row. Documents are packed without seeing each other."""
    micro_batch_sequences: Annotated[int, Field(ge=1)] = 1
    """Rows that one worker computes at once."""
    global_batch_tokens: Annotated[int, Field(ge=8)]
    """Tokens per optimiser step over all workers: a multiple of rows × micro batch × workers."""
    num_steps: Annotated[int, Field(ge=1)] | None = None
    num_epochs: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Schedule = Schedule()
    optimizer: Annotated[AdamW | Muon, Field(discriminator="type")] = AdamW(type="adamw")
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    sharding: Sharding = Sharding()
    workers: Workers = Workers()
    checkpoints: Checkpoints = Checkpoints()
    faults: Faults = Faults()
    evaluate_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Held-out loss every so many steps. Default: at the start and the end only."""
    early_stopping: EarlyStopping | None = None
    seed: int = 0
    settings_from: TunedRef | None = None
    """A search (the artifact of a `tune` job): the values of its best trial replace those that stand here."""

    @property
    def global_batch_sequences(self) -> int:
        return self.global_batch_tokens // self.sequence_length_tokens

    @property
    def packs_rows(self) -> bool:
        """Whether several texts share a row. Virtual tokens stand before the first one only."""
        return not isinstance(self.adapter, VIRTUAL_TOKEN_METHODS)

    @property
    def accumulation_steps(self) -> int:
        return self.global_batch_sequences // (self.micro_batch_sequences * self.workers.num_workers)

    @model_validator(mode="after")
    def _one_starting_point(self) -> Self:
        if (self.base is None) == (self.architecture is None):
            raise ValueError("give either base (continue from a model) or architecture (fresh weights)")
        if self.architecture is not None and not isinstance(self.adapter, NoAdapter):
            raise ValueError("an adapter needs a base: fresh weights are trained whole")
        if self.architecture is not None and self.sequence_length_tokens > self.architecture.max_positions:
            limit = self.architecture.max_positions
            raise ValueError(f"sequence_length_tokens is more than architecture.max_positions ({limit})")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.num_steps is None) == (self.num_epochs is None):
            raise ValueError("give either num_steps or num_epochs")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        at_once = self.sequence_length_tokens * self.micro_batch_sequences * self.workers.num_workers
        if self.global_batch_tokens % at_once:
            below = self.global_batch_tokens // at_once * at_once
            nearest = f"{below} or {below + at_once}" if below else str(at_once)
            raise ValueError(
                f"global_batch_tokens must be a multiple of {at_once} (sequence_length_tokens × micro_batch_sequences "
                f"× workers.num_workers): try {nearest}"
            )
        return self

    @model_validator(mode="after")
    def _muon_needs_whole_matrices(self) -> Self:
        if self.optimizer.type == "muon" and self.sharding.zero_stage == 3:
            raise ValueError("optimizer muon needs whole matrices, which sharding.zero_stage 3 cuts up: use stage 2")
        if self.optimizer.type == "muon" and self.adapter.type != "none":
            raise ValueError("optimizer muon is for whole weights; adapters are trained with adamw")
        return self

    @model_validator(mode="after")
    def _adapter_fits(self) -> Self:
        is_quantised = isinstance(self.adapter, LoraAdapter) and self.adapter.quantised_base is not None
        if is_quantised and self.sharding.zero_stage:
            raise ValueError("adapter.quantised_base cannot be sharded, and its adapter is small: use zero_stage 0")
        if not self.packs_rows and self.data.type == "corpus":
            raise ValueError(
                f"adapter {self.adapter.type} needs one text in each row, and a corpus packs many: use lora"
            )
        if isinstance(self.adapter, PartsOnly) and self.sharding.zero_stage == 3:
            raise ValueError("adapter parts leaves weights frozen, which zero_stage 3 does not gather: use stage 2")
        return self

    @model_validator(mode="after")
    def _stopping_needs_evaluation(self) -> Self:
        if self.early_stopping is not None and self.evaluate_every_steps is None:
            raise ValueError("early_stopping needs evaluate_every_steps")
        return self
