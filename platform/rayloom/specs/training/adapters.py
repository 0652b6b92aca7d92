"""`adapter` of a training job: which weights are trained (all, named parts, or a few new ones added to a frozen model).

The usual learning rate of each method is that of its paper or of PEFT's examples, with AdamW.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rayloom.specs.base import AdapterRef, Spec

Rank = Annotated[int, Field(ge=1, le=512)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Modules = tuple[str, ...] | Literal["all-linear"]
VirtualTokens = Annotated[int, Field(ge=1, le=512)]

ModelPart = Literal["attention", "feed_forward", "embeddings", "norms", "biases", "head"]


class NoAdapter(Spec):
    """Every weight of the model is trained."""

    type: Literal["none"]
    usual_learning_rate: ClassVar[float] = 3e-5


class PartsOnly(Spec):
    """The weights of the named parts are trained, all others are frozen; the result is a whole model."""

    type: Literal["parts"]
    parts: Annotated[tuple[ModelPart, ...], Field(min_length=1)]
    """attention and feed_forward: the matrices in the layers; head: output layer and task head."""
    frozen_lower_layers: Annotated[int, Field(ge=0)] = 0
    """Number of layers, from the input on, that stay frozen together with the embeddings, whatever `parts` says."""
    usual_learning_rate: ClassVar[float] = 5e-5

    @model_validator(mode="after")
    def _embeddings_are_below(self) -> Self:
        if self.frozen_lower_layers and "embeddings" in self.parts:
            raise ValueError("frozen_lower_layers freezes the embeddings too: leave one of them out")
        return self


class LoraAdapter(Spec):
    """Low-rank updates of frozen linear layers (Hu et al. 2021, arXiv:2106.09685)."""

    type: Literal["lora"]
    rank: Rank = 16
    """Rank of the two matrices: more can learn more and take more memory."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale: the update is multiplied by alpha / rank. Default: 2 × rank."""
    dropout: Dropout = 0.0
    """Part of the adapter's inputs that is zeroed in training."""
    target_modules: Modules = "all-linear"
    """Names of linear layers as the model calls them. Default: all but the output layer."""
    rank_stabilised: bool = False
    """Scale by alpha / √rank, so that high ranks learn (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)."""
    weight_decomposed: bool = False
    """Direction and magnitude apart (DoRA, Liu et al. 2024, arXiv:2402.09353). vLLM must be given it merged."""
    quantised_base: Literal["nf4", "int8"] | None = None
    """Hold the frozen base in 4-bit NF4 with double quantisation (QLoRA, Dettmers et al. 2023, arXiv:2305.14314), or in
    8 bits (LLM.int8, Dettmers et al. 2022, arXiv:2208.07339). The adapter is for the 16-bit base all the same."""
    start_from: AdapterRef | None = None
    """An adapter of the same base, rank, alpha and layers, made here or elsewhere, whose weights are trained on."""
    usual_learning_rate: ClassVar[float] = 2e-4

    @property
    def scale_alpha(self) -> float:
        return self.alpha if self.alpha is not None else 2.0 * self.rank


class BottleneckAdapter(Spec):
    """Bottleneck layers after attention and feed-forward (Houlsby et al. 2019, arXiv:1902.00751)."""

    type: Literal["bottleneck"]
    size: Annotated[int, Field(ge=1, le=1024)] = 64
    """Width of the middle."""
    places: Annotated[tuple[Literal["attention", "feed_forward"], ...], Field(min_length=1)] = (
        "attention",
        "feed_forward",
    )
    """feed_forward alone is the form of Pfeiffer et al. (2020, arXiv:2005.00247)."""
    usual_learning_rate: ClassVar[float] = 5e-4


class PrefixAdapter(Spec):
    """Trained keys and values before every layer's own (Li & Liang 2021, arXiv:2101.00190)."""

    type: Literal["prefix"]
    num_virtual_tokens: VirtualTokens = 20
    """Trained positions before every text."""
    usual_learning_rate: ClassVar[float] = 1e-2


class PromptAdapter(Spec):
    """Trained embeddings before the text (Lester et al. 2021, arXiv:2104.08691)."""

    type: Literal["prompt"]
    num_virtual_tokens: VirtualTokens = 20
    """Trained positions before every text."""
    initial_text: str | None = None
    """Words whose embeddings they begin as. Default: random words of the vocabulary."""
    usual_learning_rate: ClassVar[float] = 3e-2


class PTuningAdapter(Spec):
    """Embeddings before the text, computed by a small trained network (Liu et al. 2021, arXiv:2103.10385)."""

    type: Literal["p_tuning"]
    num_virtual_tokens: VirtualTokens = 20
    """Trained positions before every text."""
    encoder_size: Annotated[int, Field(ge=8)] = 128
    """Width of the network that computes the embeddings."""
    usual_learning_rate: ClassVar[float] = 3e-3


class BitFit(Spec):
    """Only biases are trained (Ben Zaken et al. 2021, arXiv:2106.10199); needs a model that has biases."""

    type: Literal["bitfit"]
    usual_learning_rate: ClassVar[float] = 1e-3


class Ia3Adapter(Spec):
    """One trained factor for each key, value and feed-forward value (Liu et al. 2022, arXiv:2205.05638)."""

    type: Literal["ia3"]
    usual_learning_rate: ClassVar[float] = 5e-3


Adapter = Annotated[
    NoAdapter
    | PartsOnly
    | LoraAdapter
    | BottleneckAdapter
    | PrefixAdapter
    | PromptAdapter
    | PTuningAdapter
    | BitFit
    | Ia3Adapter,
    Field(discriminator="type"),
]

VIRTUAL_TOKEN_METHODS = (PrefixAdapter, PromptAdapter, PTuningAdapter)
"""Methods that put virtual tokens before each text, so that a row can hold one text only."""


def is_whole_model(adapter: Adapter) -> bool:
    """Whether the result of training is a whole model rather than an adapter."""
    return isinstance(adapter, (NoAdapter, PartsOnly))
