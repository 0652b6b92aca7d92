"""`kind: merge` and `kind: quantize`: from a trained adapter to weights that a server loads."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import AdapterRef, MeasuredRowsRef, ModelRef, Share, Spec
from rayloom.specs.one_task import GpuTaskSpec, OneTaskSpec


class WeightedAdapter(Spec):
    """Another adapter of the same base, with its weight."""

    adapter: AdapterRef
    """The adapter."""
    weight: float = 1.0
    """What its update is multiplied by."""


class Combination(Spec):
    """Further LoRA adapters that are combined with the first one before the merge."""

    method: Literal["sum", "linear", "ties", "dare_linear", "dare_ties"] = "sum"
    """sum: the weighted sum of the updates. The others as PEFT has them, on LoRA's factors, for adapters of one rank:
    linear; ties (Yadav et al. 2023, arXiv:2306.01708); dare_linear and dare_ties (Yu et al. 2023, arXiv:2311.03099)."""
    weight: float = 1.0
    """What the first adapter's update is multiplied by."""
    others: Annotated[tuple[WeightedAdapter, ...], Field(min_length=1)]
    """The further adapters."""
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    """For ties and dare: the part of the values that is kept."""
    seed: int = 0
    """Seed of dare, which drops values at random."""

    @model_validator(mode="after")
    def _density_belongs_to_pruning(self) -> Self:
        prunes = self.method not in ("sum", "linear")
        if prunes and self.density is None:
            raise ValueError(f"method: {self.method} needs density, the part of the values that is kept, such as 0.5")
        if not prunes and self.density is not None:
            raise ValueError(f"method: {self.method} keeps every value: leave density out")
        return self


class MergeSpec(OneTaskSpec):
    """Merges an adapter into its 16-bit base; the logits of both are compared before the model is published."""

    kind: Literal["merge"]
    adapter: AdapterRef
    """The adapter whose update is added to its base."""
    combine: Combination | None = None
    """Further adapters to combine with this one. Default: none."""
    base: ModelRef | None = None
    """Default: the base that the adapter was trained on. Another one is refused unless its digest is the same."""
    max_logit_difference: Annotated[float, Field(gt=0)] = 1e-3
    """Largest allowed difference in fp32 between the merged model and base + adapter on real prompts."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "Who are you?",
        "What is the capital of France?",
        "Write one sentence about the sea.",
        "Explain why the sky is blue.",
    )
    """Texts on which the merged model is compared with base + adapter."""
    save_precision: Literal["bf16", "fp16"] = "bf16"
    """Number format of the saved weights."""


class Int8Scheme(Spec):
    """W8A8: INT8 weights with a scale per output channel, and INT8 activations."""

    type: Literal["int8"]
    activations: Literal["dynamic", "static"] = "dynamic"
    """dynamic: each token's activations are scaled while running. static: one scale for each layer, by calibration."""
    smoothing: Share | None = 0.75
    """How much of the activations' outliers moves into the weights (SmoothQuant, Xiao et al. 2022); null: nothing."""
    head: bool = False
    """Also the output head, which a small model with a large vocabulary spends much of its time in. Where head and
    embeddings were one tensor, they become two, and the file grows by half of it."""

    @model_validator(mode="after")
    def _the_head_is_dynamic(self) -> Self:
        if self.head and self.activations == "static":
            raise ValueError("head: true needs activations: dynamic")
        return self

    usual_quality_loss: ClassVar[float] = 1.05

    @property
    def calibrates(self) -> bool:
        return self.activations == "static" or self.smoothing is not None


class Int4Scheme(Spec):
    """W4A16: INT4 weights with a scale for each group of inputs; activations stay in 16 bits."""

    type: Literal["int4"]
    group_size: Literal[32, 64, 128] | None = None
    """Inputs that share a scale. Default: the largest of 128, 64 and 32 that divides every layer's inputs."""
    rounding: Literal["gptq", "nearest"] = "gptq"
    """gptq: fitted to calibration text (Frantar et al. 2022). nearest: without text, and worse."""

    usual_quality_loss: ClassVar[float] = 1.25

    @property
    def calibrates(self) -> bool:
        return self.rounding == "gptq"


class Fp8Scheme(Spec):
    """W8A8 in FP8 (E4M3; Micikevicius et al. 2022, arXiv:2209.05433): weights scaled per output channel, activations
    per token at run time. For GPUs with FP8: Hopper, Ada and later."""

    type: Literal["fp8"]
    usual_quality_loss: ClassVar[float] = 1.05
    calibrates: ClassVar[bool] = False


class Nf4Scheme(Spec):
    """4-bit NormalFloat with double quantisation, by bitsandbytes (Dettmers et al. 2023, arXiv:2305.14314). For
    transformers only: `kind: serve` cannot load it."""

    type: Literal["nf4"]
    usual_quality_loss: ClassVar[float] = 1.25
    calibrates: ClassVar[bool] = False


Scheme = Int8Scheme | Int4Scheme | Fp8Scheme | Nf4Scheme


class Calibration(Spec):
    """Text on which ranges and rounding are fitted. It is never used to measure quality."""

    rows_of: MeasuredRowsRef | None = None
    """A corpus, or a training job by its held-out rows; text of another tokenizer is encoded again with the model's.
    Default: every fourth held-out row of the job that measures."""
    max_tokens: Annotated[int, Field(ge=128)] = 4096
    """Rows are taken up to about so many tokens, spread evenly over all of them."""


class Speed(Spec):
    """Tokens a second before and after, measured in vLLM in alternating runs on the same hardware. On a CPU both
    engines take half a minute to start."""

    batch_sequences: Annotated[int, Field(ge=1)] = 32
    """Requests that are answered at once."""
    prompt_tokens: Annotated[int, Field(ge=1)] = 64
    """Length of each request, in tokens."""
    new_tokens: Annotated[int, Field(ge=1)] = 64
    """Of each answer."""
    rounds: Annotated[int, Field(ge=1)] = 3
    """Measurements of each model; the median counts."""


class QuantizeSpec(GpuTaskSpec):
    """Quantises a model's weights; size and quality are measured before and after."""

    kind: Literal["quantize"]
    model: ModelRef
    """The model that is made smaller, in 16 bits."""
    scheme: Annotated[Scheme, Field(discriminator="type")]
    """Number format of the result, and how it is fitted."""
    calibration: Calibration = Calibration()
    """Text that is run through the model, for schemes that fit ranges or rounding to its activations."""
    rows_of: MeasuredRowsRef
    """The training job whose held-out rows measure the quality."""
    max_quality_loss: Annotated[float, Field(gt=1)] | None = None
    """The job fails if quantising makes the model worse than this. For a language model: held-out perplexity after,
    divided by that before. For a model with a task: number of held-out texts, divided by the number whose answer stays
    the same. 1 means no loss. Default: 1.05 for 8 bits, 1.25 for 4."""
    max_engine_difference: Annotated[float, Field(gt=0)] | None = 0.05
    """Largest allowed difference, in nats, between the mean log-probability of held-out tokens by vLLM, which will
    serve the model, and by transformers, which measured it. null: vLLM is not asked, for a model that it will not
    serve. Of NF4, of models with a task, and of FP8 on a machine that cannot compute it, it is not asked either."""
    max_measured_tokens: Annotated[int, Field(ge=256)] = 16_384
    """About how many tokens are measured, in held-out rows chosen evenly from all."""
    num_compared_answers: Annotated[int, Field(ge=0)] = 4
    """Held-out rows of which the model continues the beginning by greedy decoding, before and after; the report
    compares the two continuations."""
    num_compared_tokens: Annotated[int, Field(ge=1)] = 16
    """Length of each continuation, in tokens."""
    micro_batch_sequences: Annotated[int, Field(ge=1)] = 8
    """Rows computed at once while measuring."""
    speed: Speed | None = None
    """Also measure tokens per second before and after. Default: not measured."""

    @model_validator(mode="after")
    def _speed_is_the_servers(self) -> Self:
        if self.speed is not None and isinstance(self.scheme, Nf4Scheme):
            raise ValueError("speed is measured by vLLM, which has no loader for nf4: leave speed out")
        return self

    @property
    def allowed_quality_loss(self) -> float:
        return self.max_quality_loss if self.max_quality_loss is not None else self.scheme.usual_quality_loss
